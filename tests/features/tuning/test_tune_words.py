"""What a search came to, in sentences, a table and numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.backends.protocol import Cost
from salver.features.tuning.choose import Setting
from salver.features.tuning.grid import Limits
from salver.features.tuning.profile import Cell, Measurement
from salver.features.tuning.results import (
    Roofline,
    TuningResult,
    compare,
    curve_table,
    feasible_rates,
    gains,
    headline,
    picture,
    sentences,
)  # fmt: skip
from salver.features.tuning.roofline import Ceilings
from salver.features.tuning.search import Search
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Objective

LAW = BatchLaw(a=0.001, t0=0.004)
P99 = Objective(latency_p99_ms=50)
BOUND = Roofline(Cost(flops_a_row=1e9, weight_bytes=4e8), Ceilings(2e12, 1e11))


def tuned(law: BatchLaw = LAW, rows: int = 32, **more: object) -> TuningResult:
    measured = tuple(Measurement(Cell(1, 2, b), law.seconds(b), law.rate(b)) for b in (4, 32))
    setting = Setting(1, 2, rows, law, law.rate(rows), ("It is quick.",))
    return TuningResult(
        **{"model": "m", "objective": P99, "setting": setting, "measured": measured, "feasible": {}} | more
    )  # type: ignore[arg-type]


def said(found: TuningResult) -> str:
    return " ".join(sentences(found))


def test_the_curve_starts_at_one_row_and_has_the_chosen_size() -> None:
    curve = tuned(rows=21).curve()
    assert [point.rows for point in curve] == [1, 2, 4, 8, 16, 21, 32]
    assert curve[2].efficiency == pytest.approx(0.5)
    assert curve[0].seconds == pytest.approx(0.005)
    assert {point.bound for point in curve} == {None}


def test_the_table_names_the_sizes_and_has_a_column_for_what_is_known() -> None:
    columns, rows = curve_table(tuned(roofline=BOUND, feasible={1: 150.0, 32: 776.0}))
    assert columns == (
        "rows", "run ms", "rows/s", "efficiency", "bound rows/s", "within objective rows/s", "",
    )  # fmt: skip
    assert [(row[0], row[-1]) for row in rows if row[-1]] == [
        ("4", "B* = 4"), ("16", "B_slo = 21"), ("32", "chosen"),
    ]  # fmt: skip
    assert rows[0] == ("1", "5.00", "200", "20 %", "250", "150", "")  # 0.4 GB at 100 GB/s
    assert rows[-1][:5] == ("32", "36.0", "889", "89 %", "2000")  # 1 GFLOP at 2 TFLOP/s
    assert curve_table(tuned())[0] == ("rows", "run ms", "rows/s", "efficiency", "")


@given(
    st.floats(1e-6, 1), st.floats(0, 1), st.integers(1, 64), st.integers(1, 4), st.floats(0, 1e12),
    st.floats(1, 1e12),
)  # fmt: skip
def test_every_row_of_the_table_has_every_column(
    a: float, t0: float, rows: int, instances: int, flops: float, weights: float
) -> None:
    law = BatchLaw(a, t0)
    setting = Setting(instances, 1, rows, law, 1.0)
    roofline = Roofline(Cost(flops, weights), Ceilings(1e11, 1e10))
    found = tuned(setting=setting, roofline=roofline)
    columns, table = curve_table(found)
    assert all(len(row) == len(columns) for row in table)
    assert sum("chosen" in row[-1] for row in table) == 1
    assert picture(found).panels[0].series


def test_the_sentences_say_what_bounds_the_model() -> None:
    text = said(tuned(roofline=BOUND))
    assert "a row is 1 GFLOP, the weights are 381 MiB" in text
    assert "2 TFLOP/s, 100 GB/s at best (measured)" in text
    assert "32 rows allow 2000 rows/s, of which 44 % are reached" in text
    assert "beyond 8 rows arithmetic is the bound, below it memory" in text


def test_small_weights_leave_arithmetic_the_bound_at_every_size() -> None:
    bound = Roofline(Cost(1e9, 1e3), Ceilings(1e12, 1e11))
    assert "arithmetic is the bound at every size" in said(tuned(roofline=bound))


def test_operations_on_8_bit_integers_are_told_with_their_peak() -> None:
    bound = Roofline(Cost(1e6, 1e3, int8_ops_a_row=2e9), Ceilings(1e12, 1e11, 4e12))
    text = said(tuned(roofline=bound))
    assert "a row is 1 MFLOP and 2 GOP of 8-bit integers, the weights are 0.977 KiB" in text
    assert "4 TOP/s of 8-bit integers" in text


def test_what_is_not_counted_is_said_and_nothing_is_bounded() -> None:
    found = tuned(roofline=Roofline(Cost(notes=("operations are not counted: no reason",))))
    assert "Roofline: operations are not counted: no reason." in said(found)
    assert found.roofline.rate(8) == math.inf
    assert all("roofline" not in series.label for series in picture(found).panels[0].series)


def test_where_latency_alone_counts_no_rule_wins_against_taking_what_waits() -> None:
    found = gains(tuned().setting)
    assert list(found) == [0.3, 0.6, 0.9]
    assert max(found.values()) < 1e-3
    text = said(tuned(gains=found))
    assert "No rule can win on mean latency: at 30, 60, 90 % of the capacity" in text


def test_where_full_batches_only_delay_a_rule_can_win_and_the_report_says_so() -> None:
    found = gains(Setting(1, 2, 32, BatchLaw(a=0.001, t0=0.0001), 1.0))
    assert max(found.values()) > 0.05
    assert 'batching.policy = "learned" finds it' in said(tuned(gains=found))


def test_without_batches_there_is_no_rule_to_compare() -> None:
    assert gains(Setting(1, 1, 1, LAW, 1.0)) == {}
    assert gains(Setting(1, 1, 8, BatchLaw(0.0, 0.0), 1.0)) == {}


@given(st.floats(1e-5, 0.1), st.floats(0, 0.1), st.sampled_from((2, 4, 8, 16, 32)))
def test_no_gain_is_negative_or_more_than_all(a: float, t0: float, rows: int) -> None:
    assert all(0 <= gain < 1 for gain in gains(Setting(1, 1, rows, BatchLaw(a, t0), 1.0)).values())


@pytest.mark.parametrize(("error", "is_busy"), [(0.05, False), (0.8, True)])
def test_runs_that_scatter_tell_of_a_busy_machine(error: float, is_busy: bool) -> None:
    text = said(tuned(BatchLaw(0.001, 0.004, error=error)))
    assert ("Some runs took 80 % longer than the law says" in text) == is_busy


def test_an_objective_out_of_reach_promises_no_rate() -> None:
    slow = Setting(1, 2, 1, BatchLaw(0.1, 0.0), 0.0, ("50 ms cannot be met.",))
    assert sentences(tuned(setting=slow)) == ("50 ms cannot be met.",)


def test_feasible_rates_are_asked_of_the_judge_for_every_size() -> None:
    asked = []

    def judge(law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        asked.append((instances, max_rows, limit_s))
        return float(max_rows)

    setting = Setting(2, 1, 21, LAW, 1.0)
    assert feasible_rates(setting, P99, Limits(2, rows=4), judge) == {1: 1.0, 2: 2.0, 4: 4.0, 21: 21.0}
    assert asked == [(2, rows, 0.05) for rows in (1, 2, 4, 21)]
    assert feasible_rates(setting, Objective(throughput=True), Limits(2), judge) == {}


def test_the_quick_choice_is_held_against_the_best_cell() -> None:
    throughput = Objective(throughput=True)
    search = Search(Limits(1), throughput)
    for rows, rate in ((1, 100.0), (16, 800.0), (32, 1000.0)):
        search.tell(Measurement(Cell(1, 1, rows), rows / rate, rate))
    quick = Setting(1, 1, 16, BatchLaw(0.001, 0.004), 800.0)
    found = compare(quick, 2, throughput, search, None)
    assert (found.instances, found.threads, found.max_rows) == (1, 1, 32)
    assert (found.cells, found.quick_cells, found.share) == (3, 2, 0.8)
    assert (
        "The whole grid of 3 cells finds 1 × 1 with 32 rows; the choice after 2 cells reaches 80.0 %"
        in said(tuned(compared=found))
    )


def test_the_headline_names_model_objective_and_setting() -> None:
    assert headline(tuned()) == (
        "m, p99 within 50 ms: 1 × 2 (instances × threads), batches of at most 32 rows"
    )
