"""Operation of the management interface that lists the rules."""

from collections.abc import Callable

import msgspec

from salver.features.routing.rules.document import Rule
from salver.transport.operations import Answer, ApiRequest, Operation


class RuleView(msgspec.Struct, frozen=True):
    """One rule.

    Attributes:
        rule: Rule as in the file.
        matched: Requests on which it has decided, since the start.
        missing: Models that it names and this server does not have.
    """

    rule: Rule
    matched: int
    missing: list[str]


class RulesView(msgspec.Struct, frozen=True):
    """Rules in force, in their order.

    Attributes:
        file: Path of the file.
        problem: Why they are not those of the file; empty = they are.
    """

    file: str
    problem: str
    rules: list[RuleView]


def rule_operations(view: Callable[[], RulesView]) -> list[Operation]:
    """Return the operation."""

    async def tell(asked: ApiRequest) -> Answer:
        return Answer(view())

    about = "Rules on requests, with the number of requests on which each has decided"
    return [Operation("rules", "GET", "/rules", about, tell, RulesView, right="read")]
