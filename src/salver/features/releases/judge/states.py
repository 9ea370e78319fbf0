"""State machine of a release, as a table.

Who requests a transition, and why, is elsewhere.
"""

from collections.abc import Mapping
from typing import Final

from salver.words.errors import Conflict
from salver.words.releases import ReleaseState

#: Allowed next states of each state. Most include themselves, for the next stage or a repeated request. A
#: rollback may follow each; nothing follows a rollback.
MOVES: Final[Mapping[ReleaseState, frozenset[ReleaseState]]] = {
    ReleaseState.PROPOSED: frozenset(ReleaseState) - {ReleaseState.HELD},
    ReleaseState.RUNNING: frozenset(ReleaseState) - {ReleaseState.PROPOSED},
    ReleaseState.HELD: frozenset(ReleaseState) - {ReleaseState.PROPOSED},
    ReleaseState.PAUSED: frozenset(ReleaseState) - {ReleaseState.PROPOSED, ReleaseState.HELD},
    ReleaseState.PROMOTED: frozenset({ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK}),
    ReleaseState.ROLLED_BACK: frozenset({ReleaseState.ROLLED_BACK}),
}

#: States in which a release no longer splits traffic.
ENDED: Final = frozenset({ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK})


def advance(before: ReleaseState, after: ReleaseState) -> ReleaseState:
    """Return the state after a transition; after a rollback, which is idempotent, always that.

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
