"""What a busy event loop adds to latency, how many requests a turn lets in, and copies of refusals."""

import math

import pytest

from salver.transport.budget import Budget
from salver.transport.exchange import Exchange
from salver.transport.http1_head import Head, Heads
from salver.transport.large_body import LargeBody
from salver.transport.terms import MOST_RECEIVED, TURN_S, Places, Pulse, Refusal
from salver.words.messages import NO_PLACE_S


class Loop:
    """Event loop of a Pulse: calls at the end of a turn, a clock, and the time that its thread worked."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0
        self.calls: list[object] = []
        self.pulse = Pulse(self.calls.append, lambda: self.now, lambda: self.worked)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.worked += seconds

    def read(self, cost: float = 0.0) -> float:
        """Return the lag of a request that is read now, and takes so long to be worked on."""
        exchange = Exchange(a_head(), None)
        self.pulse.read(exchange, self.now)
        self.work(cost)
        return exchange.lag

    def begin(self, size: int) -> tuple[Exchange, float]:
        """Begin to receive a large body; return its request, and the milliseconds that it will take."""
        exchange = Exchange(a_head(), None)
        self.pulse.read_large(exchange, self.now, size)
        exchange.large = LargeBody.reserve(Budget(), size, 0)
        assert exchange.large is not None
        self.pulse.receive(exchange)
        return exchange, round(1e3 * exchange.wait, 3)

    def overload(self) -> None:
        """Have turns that are too long."""
        self.now += 1.0
        for _ in range(4):
            for _ in range(300):
                self.read(1e-4)
            self.turn()

    def turn(self) -> None:
        """End the turn."""
        calls, self.calls[:] = list(self.calls), []
        for call in calls:
            call()  # type: ignore[operator]


class Alike:
    def __init__(self) -> None:
        self.ids = 0
        self.closed = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"id{self.ids}"

    def close(self) -> int:
        self.closed += 1
        return self.ids


def a_head() -> Head:
    head = Heads().parse(b"POST /infer HTTP/1.1\r\nHost: h")
    assert head is not None
    return head


def test_requests_after_a_pause_do_not_lag() -> None:
    loop = Loop()
    for _ in range(5):
        loop.now += 0.1
        assert loop.read(0.0005) == 0.0
    assert not loop.calls  # and no turn is counted for them


def test_a_request_may_have_come_since_the_poll_before() -> None:
    loop = Loop()
    loop.now = 1.0
    lags = [loop.read(0.001) for _ in range(5)]
    assert lags[:3] == [0.0, 0.0, 0.0] and lags[4] == pytest.approx(0.004)
    loop.turn()  # 5 ms after the pause
    assert loop.read(0.02) == pytest.approx(0.01)  # it leaves after another turn as long
    assert loop.read() == pytest.approx(0.025)
    loop.turn()
    assert loop.read() == pytest.approx(0.04)


def test_a_turn_without_requests_is_a_pause() -> None:
    loop = Loop()
    loop.now = 1.0
    while not loop.calls:
        loop.read(0.001)
    loop.turn()
    assert loop.calls  # the next turn is counted, too
    loop.turn()
    assert not loop.calls
    assert loop.read() == 0.0


def test_a_turn_of_other_work_is_no_pause() -> None:
    loop = Loop()
    loop.now = 1.0
    while not loop.calls:
        loop.read(0.001)
    loop.turn()
    loop.work(0.005)  # bodies are received, and answers are written
    loop.turn()
    assert loop.calls and loop.read() == pytest.approx(0.01)


@pytest.mark.parametrize("cost", [20e-6, 50e-6, 200e-6])
def test_turns_of_an_overloaded_loop_become_short_and_let_in_what_fits(cost: float) -> None:
    loop, backlog = Loop(), 3000.0
    loop.now, turns = 1.0, []
    for _ in range(200):
        begin, taken = loop.now, 0
        for _ in range(int(backlog)):
            has_place = loop.read() < NO_PLACE_S
            loop.work(cost if has_place else cost / 5)
            taken += has_place
        backlog = 2 * (loop.now - begin) / cost  # twice what it could answer
        turns.append((taken, loop.now - begin))
        loop.turn()
    taken, seconds = (sum(column) / 50 for column in zip(*turns[-50:], strict=True))
    assert 0.5 * TURN_S < seconds < 1.5 * TURN_S
    assert taken * cost / seconds == pytest.approx((1 - 2 / 5) / (1 - 1 / 5), abs=0.1)  # no time is lost


def test_bodies_that_are_being_received_delay_the_next() -> None:
    loop, size = Loop(), 10_000_000
    loop.overload()
    first, alone = loop.begin(size)
    second, behind = loop.begin(size)
    assert (alone, behind) == (10, 20)  # a nanosecond a byte
    assert first.large is not None and second.large is not None
    first.large.at, second.large.at = size // 2, size
    loop.turn()
    loop.read(0.001)
    loop.pulse.received(second)
    assert loop.begin(size)[1] == 15  # the other half of the first one, and its own
    assert second.lag >= loop.now - second.arrival


def test_the_pace_of_large_bodies_is_measured_within_bounds() -> None:
    loop, size = Loop(), 10_000_000
    loop.overload()
    for _ in range(100):
        exchange, _ = loop.begin(size)
        loop.work(0.02)
        loop.pulse.received(exchange)
    assert loop.begin(size)[1] == pytest.approx(20, rel=0.01)
    for _ in range(100):
        exchange, _ = loop.begin(size)
        loop.work(1.0)
        loop.pulse.received(exchange)
        loop.read()
    assert 20 < loop.begin(size)[1] <= 200


def test_an_overloaded_loop_receives_a_limited_number_of_bytes() -> None:
    loop, size = Loop(), MOST_RECEIVED // 2
    assert loop.begin(3 * size)[0].lag < NO_PLACE_S
    loop.overload()
    assert loop.begin(3 * size)[0].lag < NO_PLACE_S  # the only one
    loop.turn()
    loop.read(0.001)
    first, second, third = (loop.begin(size)[0] for _ in range(3))
    assert max(first.lag, second.lag) < NO_PLACE_S == third.lag


def test_bodies_that_wait_for_their_callers_delay_nobody() -> None:
    loop = Loop()
    loop.overload()
    for _ in range(5):
        loop.begin(1_000_000)
    loop.turn()
    loop.read(0.001)
    assert loop.begin(1_000_000)[1] == 1


def test_bodies_of_a_loop_that_pauses_delay_nobody() -> None:
    loop = Loop()
    assert [loop.begin(10_000_000)[1] for _ in range(5)] == [0] * 5
    loop.overload()
    assert [loop.begin(10_000_000)[1] for _ in range(2)] == [10, 20]
    loop.turn()
    loop.turn()
    loop.now += 1.0
    assert [loop.begin(10_000_000)[1] for _ in range(2)] == [0, 0]


def test_time_from_the_head_to_the_body_counts_in_an_overload() -> None:
    def lag(loop: Loop) -> float:
        exchange, begun = Exchange(a_head(), None), loop.now - 0.5
        without = loop.read()
        loop.pulse.read_large(exchange, loop.now, 0, begun)
        return exchange.lag - without

    loop = Loop()
    assert lag(loop) == 0  # the caller took its time
    loop.overload()
    assert lag(loop) == pytest.approx(0.5)


def test_a_short_backlog_is_worked_off_without_a_limit() -> None:
    loop = Loop()
    for _ in range(50):
        loop.now += 0.01
        assert all(loop.read(50e-6) < NO_PLACE_S for _ in range(300))
        while loop.calls:
            loop.turn()


@pytest.mark.parametrize(
    ("turns", "pause", "limit"),
    [
        ([(100, 0, 0.01)] * 4, 0.0, math.inf),  # 40 ms of work
        ([(100, 0, 0.01)] * 5, 0.0, 30.0),
        ([(100, 0, 0.01)] * 5, 0.001, math.inf),  # a pause counts many times its length
        ([(100, 0, 0.05), *[(1, 0, 0.003)] * 50], 0.001, 6.0),  # but a long overload is not forgotten at once
        ([(100, 0, 0.05), *[(1, 0, 0.003)] * 50], 0.01, math.inf),
        ([(2, 0, 0.05)], 0.0, 1.0),  # one at least
        ([(100, 0, 0.002)] * 100, 0.0, math.inf),  # short turns need no limit
        ([(100, 0, 0.05), (6, 500, 0.02)], 0.0, 31.25),  # refusals fill the turn
        ([(100, 0, 0.05), (3, 0, 0.02)], 0.0, 6.0),  # the limit was not reached
        ([(100, 0, 0.05), (6, 20, 0.00075)], 0.0, 12.0),
    ],
)
def test_places_of_a_turn(turns: list[tuple[int, int, float]], pause: float, limit: float) -> None:
    places = Places()
    for turn in turns:
        places.turned(*turn)
    places.rested(pause)
    assert places.limit == pytest.approx(limit)


def test_copies_of_a_refusal_are_sent_until_the_turn_ends() -> None:
    loop, alike, head, other = Loop(), Alike(), a_head(), a_head()
    loop.pulse.refuse("kind", head, b"id: ", b"!", alike)
    loop.pulse.refuse("kind", other, b"id: ", b"?", Alike())  # the first one counts
    refusal = head.notes[Refusal]
    assert other.notes[Refusal] is refusal and loop.pulse.refusing == [refusal]
    assert [refusal.copy(), refusal.copy()] == [b"id: id1!", b"id: id2!"]
    loop.turn()
    assert not refusal.is_open and not loop.pulse.refusing and alike.closed == 1
    again = Alike()
    loop.pulse.refuse("kind", other, b"new ", b"", again)
    assert refusal.is_open and refusal.copy() == b"new id1"
    loop.turn()
    assert again.closed == 1 and not loop.calls


def test_refusals_that_follow_one_another_are_a_rush() -> None:
    pulse = Loop().pulse
    assert [pulse.is_in_rush(now) for now in (1.0, 1.00005, 1.0001, 1.01)] == [False, True, True, False]
    for now in (2.0, 2.001, 2.002, 2.003):  # it has been busy for a while
        pulse.read(Exchange(a_head(), None), now)
    assert pulse.is_in_rush(3.0)


def test_kinds_of_refusals_are_bounded() -> None:
    loop = Loop()
    for kind in range(5000):
        loop.pulse.refuse(kind, a_head(), b"", b"", Alike())
        loop.turn()
    assert len(loop.pulse._refusals) <= 1024
