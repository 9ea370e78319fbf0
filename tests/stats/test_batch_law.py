import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from salver.stats.batch_law import BatchLaw, LiveLaw, _nonnegative, fit

SIZES = (1, 2, 4, 8, 16, 32)
seconds = st.floats(1e-5, 1.0)
laws = st.builds(BatchLaw, a=seconds, t0=seconds)


def close(one: BatchLaw, other: BatchLaw, share: float) -> bool:
    return all(math.isclose(one.seconds(b), other.seconds(b), rel_tol=share) for b in SIZES)


# -- the record -------------------------------------------------------------------------------------


@given(laws, st.integers(1, 1000))
def test_efficiency_is_hockneys(law: BatchLaw, rows: int) -> None:
    assert math.isclose(law.efficiency(rows), rows / (rows + law.n_half), rel_tol=1e-9)


@given(laws)
def test_best_rows_has_the_best_rate_for_its_latency(law: BatchLaw) -> None:
    def worth(rows: int) -> float:
        return rows / law.seconds(rows) ** 2

    best = law.best_rows
    around = [worth(rows) for rows in (best - 1, best + 1, 2 * best) if rows >= 1]
    # n_half is the argmax over the reals; rounding it costs next to nothing, and never at its neighbours
    assert worth(best) >= max(around) * (1 - 0.05 / best)


def test_a_kink_caps_the_best_rate_where_rows_beyond_it_cost_more() -> None:
    law = BatchLaw(a=0.001, t0=0.004, kink=8, a_beyond=0.01)
    assert law.efficiency(8) == 1.0
    assert law.efficiency(32) < law.efficiency(4) < 1.0


# -- fitting a profile ------------------------------------------------------------------------------


@given(laws)
def test_a_clean_profile_gives_its_law_back_and_no_kink(law: BatchLaw) -> None:
    found = fit([(b, law.seconds(b)) for b in SIZES])
    assert close(found, law, 1e-3)
    assert found.kink == 0
    assert found.error < 1e-3


@given(laws, st.sampled_from((2, 4, 8)), st.floats(1.5, 5.0))
@example(BatchLaw(0.0234375, 0.75), 2, 4.0)  # a line misses it by 7 per cent at one row, and less elsewhere
def test_a_kink_is_found_where_rows_get_dearer(law: BatchLaw, kink: int, factor: float) -> None:
    bent = BatchLaw(law.a, law.t0, kink, law.a * factor)
    found = fit([(b, bent.seconds(b)) for b in SIZES])
    assert close(found, bent, 0.1)  # a bend of a few per cent is not worth two parameters


@given(laws, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_noise_and_single_pauses_hardly_move_the_law(law: BatchLaw, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [(b, law.seconds(b) * (1 + 0.02 * rng.standard_normal())) for b in SIZES for _ in range(10)]
    samples[rng.integers(len(samples))] = (1, law.seconds(1) * 30)
    found = fit(samples)
    assert close(found, law, 0.05)
    assert found.error < 0.25


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10)), min_size=1, max_size=20))
@example([(1, 1.0), (2, 0.5), (4, 0.25)])  # quicker with more rows
@example([(8, 0.3)])
@example([(8, 0.3), (8, 0.1), (8, 0.2)])
@example([(4, 5.0), (11, 1.0), (15, 2.0), (18, 2.0), (22, 5.0)])  # a kink at 4 would make four rows free
def test_whatever_was_measured_a_law_is_never_negative_nor_decreasing(
    samples: list[tuple[int, float]],
) -> None:
    law = fit(samples)
    assert min(law.a, law.t0, law.a_beyond, law.error) >= 0
    assert 0 < law.seconds(1) <= law.seconds(64) < math.inf


def test_one_size_alone_puts_all_its_time_on_the_rows() -> None:
    law = fit([(8, 0.3), (8, 0.1), (8, 0.2)])
    assert law.seconds(8) == pytest.approx(0.2)
    assert law.seconds(32) == pytest.approx(0.8)
    assert law.error == pytest.approx(0.45)  # the 95th percentile, between 0 and +50 %


def test_runs_that_cannot_be_are_left_out() -> None:
    bad = [(0, 1.0), (4, 0.0), (4, -1.0), (4, math.nan), (4, math.inf)]
    assert fit(bad) == BatchLaw(0.0, 0.0)
    assert fit([*bad, (4, 0.5)]).seconds(4) == pytest.approx(0.5)


# -- kept fresh by live runs ------------------------------------------------------------------------


def feed(live: LiveLaw, law: BatchLaw, sizes: tuple[int, ...], rounds: int) -> None:
    for _ in range(rounds):
        for rows in sizes:
            live.observe(rows, law.seconds(rows))
            live.law()


def test_nothing_known_is_no_time() -> None:
    live = LiveLaw()
    assert live.law() == BatchLaw(0.0, 0.0)
    assert (live.is_known, live.error, live.runs) == (False, 0.0, 0)


@given(laws)
@settings(max_examples=30)
def test_without_a_profile_the_law_is_learned(law: BatchLaw) -> None:
    live = LiveLaw()
    feed(live, law, (1, 3, 7, 20), 50)
    assert close(live.law(), law, 0.02)


def test_the_first_run_already_gives_a_law() -> None:
    live = LiveLaw()
    live.observe(4, 0.1)
    assert live.is_known
    assert live.law().seconds(4) == pytest.approx(0.1)


@given(
    st.builds(BatchLaw, a=st.floats(1e-3, 1), t0=st.floats(1e-3, 1)),
    st.floats(0.2, 5),
    st.sampled_from(SIZES),
)
@settings(max_examples=30)
def test_one_size_of_batch_scales_the_known_law(law: BatchLaw, factor: float, rows: int) -> None:
    live = LiveLaw(law)
    feed(live, law.scaled(factor), (rows,), 1500)
    assert close(live.law(), law.scaled(factor), 0.02)


def test_a_known_kink_stays_when_the_machine_slows() -> None:
    known = BatchLaw(0.001, 0.004, 8, 0.003)
    live = LiveLaw(known)
    feed(live, known.scaled(1.5), (1, 4, 8, 16, 32), 200)
    assert close(live.law(), known.scaled(1.5), 0.02)
    assert live.law().kink == 8


def test_old_speeds_are_forgotten_even_for_sizes_that_come_no_more() -> None:
    known = BatchLaw(0.001, 0.004)
    live = LiveLaw(known)
    feed(live, known, (1, 4, 16), 100)
    feed(live, known.scaled(2), (16,), 3000)
    assert close(live.law(), known.scaled(2), 0.05)


def test_single_pauses_do_not_become_the_law() -> None:
    known = BatchLaw(0.001, 0.004)
    live = LiveLaw(known)
    for round in range(300):
        live.observe(8, 5.0 if round % 100 == 50 else known.seconds(8))
        live.law()
    assert close(live.law(), known, 0.15)


@given(st.lists(st.tuples(st.integers(-1, 1 << 30), st.floats(allow_nan=True)), max_size=200))
def test_no_run_breaks_it(runs: list[tuple[int, float]]) -> None:
    live = LiveLaw()
    for rows, took in runs:
        live.observe(rows, took)
        law = live.law()
        assert min(law.a, law.t0) >= 0
        assert live.error >= 0


def test_runs_that_scatter_more_than_the_profile_said_show_in_its_error() -> None:
    known = BatchLaw(0.001, 0.004, error=0.0)
    live = LiveLaw(known)
    rng = np.random.default_rng(3)
    for _ in range(4_000):
        live.observe(8, known.seconds(8) * (1 + 0.1 * rng.standard_normal()))
        live.law()
    assert 0.1 < live.error < 0.25  # 95 % of a standard deviation of 10 %: 16 %


# -- the fit ----------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_least_squares_without_negative_parts_are_scipys(parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(12, parts)), rng.normal(size=12)
    assert _nonnegative(design, target) == pytest.approx(nnls(design, target)[0], abs=1e-9)
