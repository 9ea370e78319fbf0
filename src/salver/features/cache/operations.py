"""Operation of the management interface that tells what the response cache does."""

from typing import Literal

from salver.features.cache.control import CacheControl, CacheReport
from salver.transport.operations import Answer, ApiRequest, Operation, Page, PageQuery, paged


class CacheQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Selection of cached models.

    Attributes:
        model: Only this one; empty = all.
    """

    model: str = ""


def operations(control: CacheControl) -> list[Operation]:
    """Return the operations."""

    async def tell(asked: ApiRequest) -> Answer:
        query = asked.query
        return Answer(paged(control.reports(query.model), query, _name))

    summary = "What the response cache saves, by model, and what would be best"
    verb: Literal["GET"] = "GET"
    return [
        Operation("cache", verb, "/cache", summary, tell, Page[CacheReport], query=CacheQuery, right="read")
    ]


def _name(report: CacheReport) -> str:
    return f"{report.model}\n{report.version}"
