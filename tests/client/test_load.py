"""Open-loop load on a clock of its own: no real time passes here."""

from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.client.driving import drive
from salver.client.load import ENOUGH_FOR_P99, Tally, schedule, summarise
from salver.words.errors import Overloaded


class Time:
    """A clock that only ``sleep`` and ``spend`` move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.oversleep = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.oversleep

    def spend(self, *durations: float) -> Callable[[], Awaitable[None]]:
        """A ``send`` that takes these long, one after another."""
        left = iter(durations)

        async def send() -> None:
            self.now += next(left)

        return send


async def run(time: Time, send: Callable[[], Awaitable[None]], due: list[float], seconds: float) -> Tally:
    tally = Tally(len(due))
    await drive(send, np.array(due), seconds, 1, tally, clock=time.clock, sleep=time.sleep)
    return tally


async def test_latency_counts_from_the_scheduled_time() -> None:
    """One stall of 2.5 s delays the two behind it; a closed loop would show one slow request."""
    time = Time()
    tally = await run(time, time.spend(2.5, 0.1, 0.1, 0.1), [0.0, 1.0, 2.0, 3.0], 4.0)
    assert tally.latency == pytest.approx([2.5, 1.6, 0.7, 0.1])
    assert tally.lag == pytest.approx([0, 0, 0, 0])
    assert tally.finished == pytest.approx(3.1)


async def test_the_generators_own_lateness_is_told_apart() -> None:
    time = Time()
    time.oversleep = 0.25
    tally = await run(time, time.spend(0.5, 0.5), [0.0, 2.0], 3.0)
    assert tally.lag == pytest.approx([0, 0.25])
    assert tally.latency == pytest.approx([0.5, 0.75])


async def test_what_cannot_be_sent_in_time_stays_unsent() -> None:
    time = Time()
    tally = await run(time, time.spend(5, 5), [0.0, 0.5, 1.0, 1.5], 2.0)
    assert len(tally.outcome) == 1
    assert summarise(tally, 2, 2.0).unsent == 3


async def test_errors_are_counted_by_code_and_keep_out_of_the_latencies() -> None:
    time = Time()
    answers = iter([None, Overloaded("full"), Overloaded("full"), None])

    async def send() -> None:
        time.now += 0.1
        if error := next(answers):
            time.now += 0.3
            raise error

    summary = summarise(await run(time, send, [0.0, 1.0, 2.0, 3.0], 4.0), 1, 4.0)
    assert (summary.sent, summary.ok, summary.errors) == (4, 2, {"overloaded": 2})
    assert summary.max_ms == pytest.approx(100)
    assert summary.rate == pytest.approx(0.5)


async def test_several_workers_send_each_scheduled_request_once() -> None:
    time = Time()
    sent = []

    async def send() -> None:
        sent.append(time.now)

    tally = Tally(50)
    due = schedule(50, 1, "constant", 0)
    await drive(send, due, 1.0, 8, tally, clock=time.clock, sleep=time.sleep)
    assert len(sent) == len(tally.outcome) == 50


def test_nothing_good_has_no_latency() -> None:
    summary = summarise(Tally(3, [0.1], [0.0], ["overloaded"], 1.0), 3, 1.0)
    assert (summary.p50_ms, summary.max_ms, summary.ok, summary.unsent) == (None, None, 0, 2)


@pytest.mark.parametrize(("count", "sound"), [(ENOUGH_FOR_P99 - 1, False), (ENOUGH_FOR_P99, True)])
def test_a_p99_is_sound_with_enough_answers(count: int, sound: bool) -> None:
    tally = Tally(count, [0.001] * count, [0.0] * count, ["ok"] * count, 1.0)
    assert summarise(tally, count, 1.0).p99_is_sound is sound


def test_a_late_generator_is_noticed() -> None:
    late = summarise(Tally(2, [0.004, 0.004], [0.003, 0.003], ["ok"] * 2, 1.0), 2, 1.0)
    fine = summarise(Tally(2, [0.040, 0.040], [0.003, 0.003], ["ok"] * 2, 1.0), 2, 1.0)
    assert late.generator_was_late
    assert not fine.generator_was_late


@given(st.floats(0.5, 2000), st.floats(0.1, 5), st.sampled_from(["poisson", "constant"]), st.integers(0))
def test_schedules_are_ascending_inside_the_run_and_repeatable(
    rate: float, seconds: float, arrivals: str, seed: int
) -> None:
    times = schedule(rate, seconds, arrivals, seed)  # type: ignore[arg-type]
    assert np.all(np.diff(times) >= 0)
    assert times.size == 0 or (times[0] >= 0 and times[-1] < seconds)
    np.testing.assert_array_equal(times, schedule(rate, seconds, arrivals, seed))  # type: ignore[arg-type]


def test_poisson_arrivals_have_the_rate_and_the_variance_of_poisson() -> None:
    times = schedule(1000, 100, "poisson", 1)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)
