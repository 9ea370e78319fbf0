import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.tuning.choose import choose, is_set, limit_of, seed_rows, slo_rows, worth
from salver.features.tuning.grid import GridPlacement, Limits
from salver.features.tuning.profile import Cell, Measurement
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Objective

LAW = BatchLaw(a=0.001, t0=0.004)
ONE, TWO = GridPlacement(1, 2), GridPlacement(2, 1)
THROUGHPUT = Objective(throughput=True)
seconds = st.floats(1e-5, 0.1)
laws = st.builds(BatchLaw, a=seconds, t0=seconds)


def within(limit_ms: float) -> Objective:
    return Objective(latency_p99_ms=limit_ms)


def test_the_bound_of_a_latency_limit_is_the_formulas() -> None:
    # floor((S/2 - t0)/a), section 1
    assert slo_rows(LAW, 0.050) == pytest.approx(21)
    assert slo_rows(LAW, 0.020) == pytest.approx(6)
    assert slo_rows(LAW, 0.008) == pytest.approx(0)


@given(laws, st.floats(1e-4, 1))
def test_two_runs_at_the_bound_take_the_limit(law: BatchLaw, limit: float) -> None:
    rows = slo_rows(law, limit)
    if 0 < rows < 1 << 19:
        assert math.isclose(2 * law.seconds(rows), limit, rel_tol=1e-6) or rows < 1


def test_the_seed_is_n_half_within_all_bounds() -> None:
    assert seed_rows(LAW, Limits(2)) == 4
    assert seed_rows(LAW, Limits(2), 0.014) == 3  # B_slo
    assert seed_rows(LAW, Limits(2, memory_rows=2)) == 2  # B_mem
    assert seed_rows(BatchLaw(0.001, 1.0), Limits(2)) == 32  # M
    assert seed_rows(LAW, Limits(2), 0.001) == 1


def test_worth_has_no_jump_where_the_limit_lets_fewer_rows_through() -> None:
    values = [worth(LAW, 1, 32, limit / 1e4) for limit in range(45, 800)]
    assert values == sorted(values)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert max(steps) < 12
    assert worth(LAW, 1, 32, 0.005) == 0.0


def test_throughput_takes_the_placement_and_the_size_with_the_best_rate() -> None:
    setting = choose({ONE: LAW, TWO: BatchLaw(0.0015, 0.004)}, THROUGHPUT, Limits(2))
    assert (setting.instances, setting.threads, setting.max_rows) == (2, 1, 32)
    assert setting.score == pytest.approx(2 * 32 / 0.052)


def test_rows_that_bring_nothing_are_not_taken() -> None:
    assert choose({ONE: BatchLaw(0.001, 1e-7)}, THROUGHPUT, Limits(2)).max_rows == 1


def test_what_was_measured_goes_before_the_law() -> None:
    measured = [Measurement(Cell(1, 2, 8), 0.004, 2000.0)]
    assert choose({ONE: LAW}, THROUGHPUT, Limits(2), measured=measured).max_rows == 8


def test_a_tight_limit_prefers_the_placement_with_quick_runs() -> None:
    both = {ONE: BatchLaw(0.001, 0.001), TWO: BatchLaw(0.0018, 0.004)}
    assert choose(both, THROUGHPUT, Limits(2)).instances == 2
    assert choose(both, within(10), Limits(2)).instances == 1


def test_a_limit_out_of_reach_gives_the_quickest_and_says_so() -> None:
    setting = choose({ONE: LAW, TWO: BatchLaw(0.002, 0.004)}, within(2), Limits(2))
    assert (setting.instances, setting.threads, setting.max_rows, setting.score) == (1, 2, 1, 0.0)
    assert any("cannot be met" in reason for reason in setting.reasons)


def test_what_the_owner_fixed_stays_and_is_named() -> None:
    setting = choose({ONE: LAW}, within(50), Limits(2, rows=7, instances=1))
    assert setting.max_rows == 7
    assert {"Its owner has fixed rows at 7.", "Its owner has fixed instances at 1."} <= set(setting.reasons)


def test_the_judge_decides_among_those_near_the_best() -> None:
    asked = []

    def judge(law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        asked.append((instances, max_rows, limit_s))
        return 100.0 if max_rows == 8 else 50.0

    setting = choose({ONE: LAW, TWO: BatchLaw(0.1, 0.1)}, within(50), Limits(2), judge)
    assert (setting.max_rows, setting.score) == (8, 100.0)
    assert {instances for instances, _, _ in asked} == {1}  # the other is far behind
    assert len(asked) <= 8
    assert {limit for _, _, limit in asked} == {0.05}


def test_only_a_rate_needs_no_judge() -> None:
    def judge(law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        raise AssertionError

    assert choose({ONE: LAW}, THROUGHPUT, Limits(2), judge).max_rows == 32


@given(laws, laws, st.one_of(st.just(THROUGHPUT), st.floats(0.01, 1000).map(within)))
def test_whatever_the_laws_a_choice_is_within_its_bounds_and_has_reasons(
    one: BatchLaw, two: BatchLaw, objective: Objective
) -> None:
    setting = choose({ONE: one, TWO: two}, objective, Limits(2))
    assert 1 <= setting.max_rows <= 32
    assert GridPlacement(setting.instances, setting.threads) in (ONE, TWO)
    assert setting.reasons


def test_objectives() -> None:
    assert not is_set(Objective())
    assert is_set(THROUGHPUT)
    assert is_set(within(5))
    assert limit_of(Objective(deadline_ms=20)) == 0.02
    assert limit_of(THROUGHPUT) == 0


# -- the grid ---------------------------------------------------------------------------------------


def test_two_cores_have_eighteen_cells_and_two_placements_that_can_win() -> None:
    limits = Limits(2)
    assert len(limits.cells()) == 18
    assert limits.placements() == (GridPlacement(1, 2), GridPlacement(2, 1))


@pytest.mark.parametrize(
    ("limits", "placements"),
    [
        (Limits(1), [(1, 1)]),
        (Limits(4), [(1, 4), (2, 2), (4, 1)]),
        (Limits(6), [(1, 6), (1, 4), (2, 2), (6, 1)]),
        (Limits(2, shares=False), [(1, 2), (1, 1)]),
        (Limits(2, instances=2), [(2, 1)]),
        (Limits(2, instances=3), [(3, 1)]),
        (Limits(2, threads=1), [(2, 1)]),
        (Limits(2, threads=4), [(1, 4)]),
        (Limits(2, instances=2, threads=2), [(2, 2)]),
        (Limits(2, shares=False, instances=2), [(2, 1)]),
    ],
)
def test_placements_keep_within_the_cores_unless_the_owner_asks(
    limits: Limits, placements: list[tuple[int, int]]
) -> None:
    assert [(p.instances, p.threads) for p in limits.placements()] == placements
    assert set(limits.placements()) <= set(limits.all_placements())


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (Limits(2), (1, 2, 4, 8, 16, 32)),
        (Limits(2, rows=5), (1, 2, 4, 5)),
        (Limits(2, rows=100), (1, 2, 4, 8, 16, 32, 100)),
        (Limits(2, memory_rows=20), (1, 2, 4, 8, 16, 20)),
        (Limits(2, rows=100, memory_rows=6), (1, 2, 4, 6)),
        (Limits(2, batched=False), (1,)),
        (Limits(2, rows=1), (1,)),
    ],
)
def test_sizes_end_at_the_largest_that_may_be_chosen(limits: Limits, sizes: tuple[int, ...]) -> None:
    assert limits.sizes() == sizes


@pytest.mark.parametrize(
    ("t0", "said"),
    [
        (
            0.004,
            "A run takes 4 ms and 1 ms a row, so half of the possible rate is reached at B* = n_half = 4",
        ),
        (0.0, "A row takes 1 ms however many run together: larger batches gain little."),
    ],
)
def test_the_first_reason_is_what_batches_gain(t0: float, said: str) -> None:
    laws = {GridPlacement(1, 2): BatchLaw(0.001, t0)}
    setting = choose(laws, Objective(throughput=True), Limits(2))
    assert setting.reasons[0].startswith(said)
