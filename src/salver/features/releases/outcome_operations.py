"""What became of requests and units? The operation by which callers post it, later and in batches.

An outcome is taken when the answer comes; what it counts for is the releases' business.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from salver.transport.access_check import OUTCOMES
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.releases import Outcome, Receipt

#: Outcomes of one request, and its bytes.
_MOST, _MOST_BODY = 5000, 8 << 20


class OutcomeTaker(Protocol):
    """Keeps outcomes (features/releases/outcomes.py)."""

    async def accept(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Take them: each by itself. They are on disk when this returns."""
        ...


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes, each with an id of the caller's own: one that is posted twice counts once."""

    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(min_length=1, max_length=_MOST)]


def outcome_operations(outcomes: OutcomeTaker) -> list[Operation]:
    """That row of the table."""

    async def post(asked: ApiRequest) -> Answer:
        return Answer(await outcomes.accept(asked.body.outcomes))

    return [
        Operation(
            "post_outcomes",
            "POST",
            "/outcomes",
            "What became of requests or units",
            post,
            Receipt,
            Outcomes,
            changes=True,
            role=OUTCOMES,
            most_body=_MOST_BODY,
        )
    ]
