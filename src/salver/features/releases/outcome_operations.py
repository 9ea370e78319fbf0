"""Management operation for posting outcomes of requests and units, later and in batches.

An outcome is stored when the answer is sent; its use is up to releases.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from salver.transport.access_check import OUTCOMES
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.releases import Outcome, Receipt

#: Maximum outcomes of one request, and bytes.
_MOST, _MOST_BODY = 5000, 8 << 20


class OutcomeTaker(Protocol):
    """Store of outcomes (features/releases/outcomes.py)."""

    async def accept(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Store outcomes, each by itself. They are on disk when this returns."""
        ...


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes, each with an id chosen by the caller: one posted twice counts once."""

    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(min_length=1, max_length=_MOST)]


def outcome_operations(outcomes: OutcomeTaker) -> list[Operation]:
    """Return the operation."""

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
