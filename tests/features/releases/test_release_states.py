"""Which moves has a release?"""

import pytest

from salver.features.releases.judge.states import ENDED, MOVES, advance
from salver.words.errors import Conflict
from salver.words.releases import ReleaseState


@pytest.mark.parametrize("before", list(ReleaseState))
def test_a_rollback_is_legal_from_every_state_and_idempotent(before: ReleaseState) -> None:
    once = advance(before, ReleaseState.ROLLED_BACK)
    assert once is ReleaseState.ROLLED_BACK
    assert advance(once, ReleaseState.ROLLED_BACK) is once


@pytest.mark.parametrize("after", [state for state in ReleaseState if state is not ReleaseState.ROLLED_BACK])
def test_nothing_follows_a_rollback(after: ReleaseState) -> None:
    with pytest.raises(Conflict, match=r"which is final.*Propose the version again"):
        advance(ReleaseState.ROLLED_BACK, after)


def test_every_state_has_its_moves_and_none_leads_back_to_a_proposal() -> None:
    assert set(MOVES) == set(ReleaseState)
    assert [state for state, after in MOVES.items() if ReleaseState.PROPOSED in after] == [
        ReleaseState.PROPOSED
    ]


def test_an_ended_release_only_rolls_back() -> None:
    for state in ENDED:
        assert MOVES[state] <= ENDED
    assert advance(ReleaseState.PROMOTED, ReleaseState.PROMOTED) is ReleaseState.PROMOTED


def test_a_move_that_is_none_names_those_that_are() -> None:
    with pytest.raises(Conflict, match=r"PROMOTED cannot become RUNNING.* It may become ROLLED_BACK.$"):
        advance(ReleaseState.PROMOTED, ReleaseState.RUNNING)
    with pytest.raises(Conflict, match="PROPOSED cannot become HELD"):
        advance(ReleaseState.PROPOSED, ReleaseState.HELD)


def test_one_that_is_held_goes_on_to_the_next_stage_or_stays() -> None:
    for after in (ReleaseState.RUNNING, ReleaseState.HELD, ReleaseState.PAUSED, ReleaseState.PROMOTED):
        assert advance(ReleaseState.HELD, after) is after
