"""Single-flight: equal requests that arrive while one of them is computed share its answer.

Pure: no task, clock or socket. The first of them starts the computation but does not own it: when its caller
goes away, the computation goes on for the others, and ends early only when nobody is left. A failure of the
computation is everyone's; a failure of the caller who started it, such as the end of its deadline, is its
own, and the next one starts again.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from salver.words.errors import Code, SalverError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
#: Takes the outcome of a computation, once.
Told = Callable[[V | Exception], None]
#: Starts the computation of one request; returns what cancels it. May call back before it returns.
Start = Callable[[Callable[[V | Exception], None]], Callable[[], None]]

#: Failures that say something about one caller: its deadline, its place in the queue, its quota.
_OWN: Final = frozenset((Code.DEADLINE_EXCEEDED, Code.OVERLOADED, Code.RATE_LIMITED, Code.CANCELLED))


def is_own_failure(outcome: object) -> bool:
    """Return whether an outcome is a failure of the caller who started the computation."""
    return isinstance(outcome, SalverError) and outcome.code in _OWN


class _Flight(Generic[K, V]):
    __slots__ = ("is_over", "key", "leader", "stop", "turn", "waiting")

    def __init__(self, key: K) -> None:
        self.key = key
        self.waiting: dict[int, tuple[Start[V], Told[V]]] = {}  # in the order in which they came
        self.leader = 0
        self.turn = 0  # counts computations; only the latest one's outcome counts
        self.is_over = False
        self.stop: Callable[[], None] | None = None


class Flights(Generic[K, V]):
    """Computations in progress, by key.

    Args:
        soon: Calls a function in the event loop's next turn.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self._soon = soon
        self._flights: dict[K, _Flight[K, V]] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"<Flights of {len(self._flights)} keys>"

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: K, start: Start[V], told: Told[V]) -> tuple[Callable[[], None], bool]:
        """Wait for the computation of a key, which is started if there is none.

        Args:
            start: Starts the computation, if it is this request's turn.
            told: Called once with the outcome, possibly before this returns, unless the request leaves.

        Returns:
            A function that leaves, and whether the computation was started for this request.
        """
        self._last += 1
        number = self._last
        flight = self._flights.get(key)
        is_first = flight is None
        if flight is None:
            flight = self._flights[key] = _Flight(key)
        flight.waiting[number] = (start, told)
        if is_first:
            self._start(flight)
        return functools.partial(self._leave, flight, number), is_first

    def _start(self, flight: _Flight[K, V]) -> None:
        if flight.is_over:  # everyone left before the next one's turn
            return
        flight.turn += 1
        flight.leader = next(iter(flight.waiting))
        start, _ = flight.waiting[flight.leader]
        turn = flight.turn
        done = functools.partial(self._done, flight, turn)
        try:
            stop = start(done)
        except Exception as error:
            done(error)
            return
        if flight.turn == turn and not flight.is_over:
            flight.stop = stop

    def _done(self, flight: _Flight[K, V], turn: int, outcome: V | Exception) -> None:
        if flight.is_over or turn != flight.turn:
            return
        flight.stop = None
        if is_own_failure(outcome):
            flight.turn += 1
            told = flight.waiting.pop(flight.leader, None)
            if flight.waiting:
                self._soon(functools.partial(self._start, flight))
            else:
                self._end(flight)
            if told is not None:
                told[1](outcome)
            return
        self._end(flight)
        # The others' answers are encoded in turns of their own, so that a thousand do not stop the loop.
        for number in list(flight.waiting):
            if number != flight.leader:
                self._soon(functools.partial(self._tell, flight, number, outcome))
        self._tell(flight, flight.leader, outcome)

    def _tell(self, flight: _Flight[K, V], number: int, outcome: V | Exception) -> None:
        waiter = flight.waiting.pop(number, None)
        if waiter is not None:
            waiter[1](outcome)

    def _leave(self, flight: _Flight[K, V], number: int) -> None:
        left = flight.waiting.pop(number, None)
        if left is None or flight.waiting or flight.is_over:
            return
        self._end(flight)
        if flight.stop is not None:
            flight.stop()

    def _end(self, flight: _Flight[K, V]) -> None:
        flight.is_over = True
        del self._flights[flight.key]
