"""State machine of a loaded copy of a version, as a table."""

from collections.abc import Mapping
from typing import Final

from salver.words.messages import State

#: Allowed next states of each state.
MOVES: Final[Mapping[State, frozenset[State]]] = {
    State.NEW: frozenset({State.LOADING, State.GONE}),
    State.LOADING: frozenset({State.WARMING, State.UNLOADING, State.FAILED}),
    State.WARMING: frozenset({State.READY, State.UNLOADING, State.FAILED}),
    State.READY: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.UNLOADING}),
    State.UNLOADING: frozenset({State.GONE}),
    State.FAILED: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

#: States on the way to READY.
RISING: Final = frozenset({State.NEW, State.LOADING, State.WARMING})


def advance(before: State, after: State) -> State:
    """Return the state after a move.

    Raises:
        ValueError: the table has no such move, which is a bug in the caller.

    >>> advance(State.WARMING, State.READY).value
    'READY'
    """
    if after not in MOVES[before]:
        raise ValueError(f"no move from {before} to {after}")
    return after
