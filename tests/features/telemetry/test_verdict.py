"""From numbers to words: the longest phase, why, and what to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.telemetry.verdict import PHASES, Pressure, Split, judge

QUIET = Pressure(100.0, 900.0, 32.0)
TYPICAL = Split(50, 0.010, 0.002, 0.0, 0.006, rows=1, size=400, batch_rows=4, ahead=2)


def split(**changes: float) -> Split:
    fields = {"requests": 1.0, "latency": 0.1, "queue": 0.0, "formation": 0.0, "inference": 0.0, "rows": 1.0}
    return Split(**{**fields, **changes})


@pytest.mark.parametrize(
    ("slow", "pressure", "phase", "cause", "advice"),
    [
        (split(queue=0.09), Pressure(910, 889, 32), "queue", "910 rows/s came, batches of", "more instances"),
        (split(queue=0.09, ahead=90, batch_rows=8), QUIET, "queue", "90 rows waited", "more instances"),
        (split(queue=0.06, inference=0.03, batch_rows=8), QUIET, "queue", "a run of about 30 ms", "max_rows"),
        (split(formation=0.09, batch_rows=3), QUIET, "formation", "waited 90 ms for a batch", "max_delay_ms"),
        (split(inference=0.09, batch_rows=32), QUIET, "inference", "runs of 32 rows took 90 ms", "max_rows"),
        (split(inference=0.09, batch_rows=4), QUIET, "inference", "of 4 rows 6 ms", "other work on the same"),
        (
            split(inference=0.09, batch_rows=32),
            Pressure(910, 889, 32),
            "inference",
            "because 910 rows/s came",
            "more instances",
        ),
        (
            split(inference=0.011, latency=0.012, rows=4, batch_rows=4),
            QUIET,
            "inference",
            "runs of 4 rows took 11 ms",
            "threads",
        ),
        (
            split(inference=0.09),
            Pressure(100.0, is_of_steps=True),
            "inference",
            "its steps took 90 ms, typically 6 ms",
            "ask the same about its models",
        ),
        (split(size=600_000), QUIET, "rest", "brings 600 kB of tensors", "binary tensors or gRPC"),
        (split(size=400), QUIET, "rest", "the server's own work", "CPU"),
    ],
)
def test_each_cause_has_its_words(
    slow: Split, pressure: Pressure, phase: str, cause: str, advice: str
) -> None:
    verdict = judge(slow, TYPICAL, pressure)
    assert verdict.phase == phase
    assert cause in verdict.cause
    assert advice in verdict.advice[0]


def test_who_refuses_already_is_not_told_to_begin_with_it() -> None:
    slow = split(queue=0.09)
    begin = [judge(slow, TYPICAL, Pressure(910, 889, 32, refused)).advice[1] for refused in (0, 7)]
    assert begin[0].startswith("objective.latency_p99_ms in salver.toml")
    assert begin[1].startswith("a smaller objective.latency_p99_ms")


SECONDS = st.floats(0, 1e4)


@given(
    slow=st.builds(Split, st.just(1.0), *[SECONDS] * 8),
    typical=st.builds(Split, st.just(1.0), *[SECONDS] * 8),
    pressure=st.builds(Pressure, SECONDS, SECONDS, SECONDS),
)
def test_any_numbers_have_a_verdict(slow: Split, typical: Split, pressure: Pressure) -> None:
    verdict = judge(slow, typical, pressure)
    assert verdict.phase in PHASES
    assert verdict.cause and verdict.advice
    assert all(slow.phase(verdict.phase) >= slow.phase(other) for other in PHASES)
    assert 0 <= verdict.share <= 1


@given(st.builds(Split, st.just(1.0), *[SECONDS] * 4))
def test_the_phases_add_up_to_the_latency(one: Split) -> None:
    assert sum(one.phase(name) for name in PHASES) == pytest.approx(one.latency, abs=1e-9)
