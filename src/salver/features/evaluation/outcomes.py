"""Outcomes of requests, by the numbers of their ids: from a ledger or a file."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, exists, func, select

from salver.features.bulk.rows import Field
from salver.features.evaluation.labelled import read_labelled
from salver.features.ledger.schema import OUTCOME
from salver.features.registry.opening import FILE, open_ledger
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.releases import unit_numbers
from salver.words.tensor import DataType

#: Column of a file with the ids of requests.
REQUEST: Final = "request"
_MOST: Final = 5_000_000  # outcomes of a name


class Outcomes(NamedTuple):
    """Outcomes of one name.

    Attributes:
        labels: By the number of the request's id (:func:`salver.words.releases.unit_number`).
        until: Unix seconds up to which they are complete.
    """

    labels: Mapping[int, Any]
    until: float


def read_outcomes(source: str, name: str, now: float) -> Outcomes:
    """Return the outcomes of a name.

    Args:
        source: Folder of a registry, URL of its ledger, or a file with the columns ``request`` and ``name``.
        now: Unix seconds up to which a file is complete.

    Raises:
        InvalidInput: there are none.
        SalverError: the source cannot be read.
    """
    if Path(source).is_file():
        spec = TensorSpec(REQUEST, DataType.BYTES, (-1,))
        found = read_labelled(Path(source), [Field(spec, (), (REQUEST,))], name, "Name the label: --label")
        requests = [request.decode(errors="surrogateescape") for request in found.inputs[REQUEST].tolist()]
        return Outcomes(dict(zip(unit_numbers(requests).tolist(), found.labels, strict=True)), now)
    if "://" not in source and not (Path(source) / FILE).is_file():
        raise InvalidInput(
            f"--outcomes {source} is neither a file nor a registry",
            fix="Name the folder of --registry, the URL of its ledger, or a file with the column request.",
        )
    return asyncio.run(_from_ledger(source, name))


async def _from_ledger(source: str, name: str) -> Outcomes:
    async with await open_ledger(source) as ledger:
        return await ledger.read(lambda connection: _read(connection, name))


def _read(connection: Connection, name: str) -> Outcomes:
    outcome, later = OUTCOME.alias(), OUTCOME.alias()
    is_meant = (
        outcome.c.name == name,
        outcome.c.key_kind == "prediction",
        ~exists().where(later.c.supersedes == outcome.c.id),
    )
    count = connection.scalar(select(func.count()).select_from(outcome).where(*is_meant)) or 0
    if not count:
        raise InvalidInput(_none(connection, name), fix="Name them: --label NAME")
    if count > _MOST:
        raise InvalidInput(f"there are {count} outcomes named {name!r}; {_MOST} can be read")
    order = (outcome.c.event_time, outcome.c.id)  # of several of a request, the last counts
    rows = connection.execute(select(outcome.c.key, outcome.c.value).where(*is_meant).order_by(*order))
    labels = {row.key: row.value for row in rows}
    until = connection.scalar(select(func.max(OUTCOME.c.event_time)).where(OUTCOME.c.name == name))
    return Outcomes(labels, until or 0.0)


def _none(connection: Connection, name: str) -> str:
    names = connection.scalars(
        select(OUTCOME.c.name).where(OUTCOME.c.key_kind == "prediction").distinct().limit(10)
    ).all()
    if names:
        return f"no outcomes named {name!r} are of requests; there are: {', '.join(sorted(names))}"
    return f"there are no outcomes of requests (of units, {name!r} or others, none can be joined)"
