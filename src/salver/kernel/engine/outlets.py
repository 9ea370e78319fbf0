"""Sending side of decoupled responses in a host process, for several requests at a time.

:class:`ResponseSenders` is the counterpart of :mod:`salver.kernel.engine.pieces` in the engine. A response is
written when the previous one, of any request, has been copied, and its sender waits until its own reader has
consumed
it: a slow reader delays its own senders and no others. It knows no model.
"""

import threading
from collections.abc import Callable, Mapping

from salver.backends.protocol import Answer
from salver.kernel.engine.control import (
    EndOfPieces,
    GiveUp,
    Next,
    Piece,
    Reply,
    ResponseHead,
    RunError,
    TensorsTaken,
    describe,
)
from salver.kernel.engine.shm import Block
from salver.words.errors import SalverError
from salver.words.tensor import Array


class ResponseSenders:
    """Requests of this host that may still have responses to send.

    Args:
        send: Sends a message to the engine; callable from any thread.
        lay_out: Writes outputs to the shared arena.
        over: Called when a request has ended.
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
        self._turn = threading.Semaphore()  # held while a response uses the shared arena
        self._open: dict[int, ResponseSender] = {}

    def __repr__(self) -> str:
        return f"<Outlets of {len(self._open)} requests>"

    def __len__(self) -> int:
        return len(self._open)

    def open(self, mark: int) -> "ResponseSender":
        """Add a request."""
        outlet = self._open[mark] = ResponseSender(self, mark)
        return outlet

    def hear(self, order: Next | GiveUp | TensorsTaken) -> None:
        """Handle a message from the engine; it may concern a request that has already ended."""
        if isinstance(order, TensorsTaken):
            self._turn.release()
        elif (outlet := self._open.get(order.mark)) is not None:
            outlet.go_on(is_heard=isinstance(order, Next))

    def close(self) -> None:
        """Cancel all requests."""
        for outlet in list(self._open.values()):
            outlet.go_on(is_heard=False)

    def put(self, mark: int, answer: Answer | SalverError, is_last: bool) -> None:
        """Send a response when the arena is free."""
        self._turn.acquire()  # released when the engine has copied it
        try:
            if isinstance(answer, SalverError):
                piece = Piece(mark, (), describe(answer), is_last)
            else:
                said = ResponseHead(dict(answer.parameters), answer.again)
                piece = Piece(mark, self._lay_out(answer.outputs), said, is_last)
        except BaseException:
            self._turn.release()
            raise
        self._send(piece)

    def end(self, mark: int, why: RunError | None) -> None:
        """End a request; further calls have no effect."""
        if self._open.pop(mark, None) is not None:
            self._send(EndOfPieces(mark, why))
            self._over()


class ResponseSender:
    """Responses to one request; see :class:`~salver.backends.protocol.Listener`."""

    def __init__(self, outlets: ResponseSenders, mark: int) -> None:
        self._outlets = outlets
        self._mark = mark
        self._order = threading.Lock()  # one response of a request at a time
        self._taken = threading.Semaphore(0)
        self._is_heard = True
        self._is_over = False

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        """Send a response and wait until it has been consumed."""
        with self._order:
            if self._is_heard and not self._is_over:
                self._outlets.put(self._mark, answer, is_last)
                self._taken.acquire()

    def is_cancelled(self) -> bool:
        """Return whether the request was cancelled."""
        return not self._is_heard

    def end(self, why: RunError | None = None) -> None:
        """End the request. Takes no lock, because an exception may interrupt a sender at any point."""
        self._is_over = True
        self._taken.release()
        self._outlets.end(self._mark, why)

    def go_on(self, *, is_heard: bool) -> None:
        """Continue: the response has been consumed, or its reader has gone."""
        self._is_heard = self._is_heard and is_heard
        self._taken.release()
