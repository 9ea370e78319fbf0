"""How do the responses of a decoupled model leave its host process, of several requests at any time?

:class:`Outlets` is the host's end, :mod:`salver.kernel.engine.pieces` the engine's. A response is laid out
when the
one before it has been copied, whosesoever it was, and the thread that sends it waits until its own reader has
taken it: a slow reader holds up those who send to it, and nobody else. It knows no model.
"""

import threading
from collections.abc import Callable, Mapping

from salver.backends.protocol import Answer
from salver.kernel.engine.control import Failed, GiveUp, Next, Over, Piece, Reply, Said, Taken, describe
from salver.kernel.engine.shm import Block
from salver.words.errors import SalverError
from salver.words.tensor import Array


class Outlets:
    """Requests of this host that may have responses yet to come.

    Args:
        send: Says something to the engine; any thread may call it.
        lay_out: Puts outputs where the engine reads them.
        over: Called when nothing follows to one of them.
    """

    def __init__(
        self,
        send: Callable[[Reply], None],
        lay_out: Callable[[Mapping[str, Array]], tuple[Block, ...]],
        over: Callable[[], None],
    ) -> None:
        self._send = send
        self._lay_out = lay_out
        self._over = over
        self._turn = threading.Semaphore()  # to have outputs where the engine reads them
        self._open: dict[int, Outlet] = {}

    def __repr__(self) -> str:
        return f"<Outlets of {len(self._open)} requests>"

    def __len__(self) -> int:
        return len(self._open)

    def open(self, mark: int) -> "Outlet":
        """Of one more request."""
        outlet = self._open[mark] = Outlet(self, mark)
        return outlet

    def hear(self, order: Next | GiveUp | Taken) -> None:
        """What the engine says of them; of those that are over it may say so too late."""
        if isinstance(order, Taken):
            self._turn.release()
        elif (outlet := self._open.get(order.mark)) is not None:
            outlet.go_on(is_heard=isinstance(order, Next))

    def close(self) -> None:
        """Nobody listens to any of them."""
        for outlet in list(self._open.values()):
            outlet.go_on(is_heard=False)

    def put(self, mark: int, answer: Answer | SalverError, is_last: bool) -> None:
        """Hand a response over, when it is its turn."""
        self._turn.acquire()  # given back when the engine has copied it
        try:
            if isinstance(answer, SalverError):
                piece = Piece(mark, (), describe(answer), is_last)
            else:
                said = Said(dict(answer.parameters), answer.again)
                piece = Piece(mark, self._lay_out(answer.outputs), said, is_last)
        except BaseException:
            self._turn.release()
            raise
        self._send(piece)

    def end(self, mark: int, why: Failed | None) -> None:
        """Nothing follows to that request; once, however often it is called, and by whom."""
        if self._open.pop(mark, None) is not None:
            self._send(Over(mark, why))
            self._over()


class Outlet:
    """Where the responses to one request go; see :class:`~salver.backends.protocol.Listener`."""

    def __init__(self, outlets: Outlets, mark: int) -> None:
        self._outlets = outlets
        self._mark = mark
        self._order = threading.Lock()  # one response of a request at a time
        self._taken = threading.Semaphore(0)
        self._is_heard = True
        self._is_over = False

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        """Hand it over, and wait until it has been taken."""
        with self._order:
            if self._is_heard and not self._is_over:
                self._outlets.put(self._mark, answer, is_last)
                self._taken.acquire()

    def is_cancelled(self) -> bool:
        """Nobody listens any more."""
        return not self._is_heard

    def end(self, why: Failed | None = None) -> None:
        """Nothing follows. It takes no lock: a sender may end in the middle of anything, with its memory."""
        self._is_over = True
        self._taken.release()
        self._outlets.end(self._mark, why)

    def go_on(self, *, is_heard: bool) -> None:
        """Its response has been taken, or its reader has gone."""
        self._is_heard = self._is_heard and is_heard
        self._taken.release()
