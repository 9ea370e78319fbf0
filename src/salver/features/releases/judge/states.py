"""How may a release move through its life? A table, and the one way to use it.

Who asks for a move, and why, is not known here.
"""

from collections.abc import Mapping
from typing import Final

from salver.words.errors import Conflict
from salver.words.releases import ReleaseState

#: From a state to those that may follow it: most of them, itself for the next stage or a repeated wish. A
#: rollback may follow each; nothing follows a rollback.
MOVES: Final[Mapping[ReleaseState, frozenset[ReleaseState]]] = {
    ReleaseState.PROPOSED: frozenset(ReleaseState) - {ReleaseState.HELD},
    ReleaseState.RUNNING: frozenset(ReleaseState) - {ReleaseState.PROPOSED},
    ReleaseState.HELD: frozenset(ReleaseState) - {ReleaseState.PROPOSED},
    ReleaseState.PAUSED: frozenset(ReleaseState) - {ReleaseState.PROPOSED, ReleaseState.HELD},
    ReleaseState.PROMOTED: frozenset({ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK}),
    ReleaseState.ROLLED_BACK: frozenset({ReleaseState.ROLLED_BACK}),
}

#: A release in one of these shares traffic out no more.
ENDED: Final = frozenset({ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK})


def advance(before: ReleaseState, after: ReleaseState) -> ReleaseState:
    """The state after a move; after a rollback, which is idempotent, always that.

    Raises:
        Conflict: The table has no such move.

    >>> advance(ReleaseState.HELD, ReleaseState.ROLLED_BACK).value
    'ROLLED_BACK'
    """
    if after in MOVES[before]:
        return after
    if before is ReleaseState.ROLLED_BACK:
        raise Conflict(
            "the release was rolled back, which is final",
            fix="Propose the version again: a new release starts with no evidence.",
        )
    raise Conflict(
        f"a release that is {before.value} cannot become {after.value}",
        fix=f"It may become {', '.join(sorted(state.value for state in MOVES[before] - {before}))}.",
    )
