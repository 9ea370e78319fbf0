"""Receiving side of responses that a host process sends at any time, each consumed at its reader's pace.

:class:`ResponseStream` is the counterpart of :mod:`salver.kernel.engine.outlets` in the engine, for one
request. It holds at most one response, because the model waits until that has been consumed.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from salver.backends.protocol import Answer
from salver.kernel.engine.control import GiveUp, Next
from salver.words.errors import SalverError

_Said = tuple[Answer | SalverError, bool]


class ResponseStream:
    """Responses to one request, pulled one by one by a single task.

    Args:
        mark: Identifies the request between engine and host.
        tell: Sends a message to the host.

    Attributes:
        over: Done when nothing follows, even if a response has not been consumed.
        error: Error that ended the responses early; None = none.
    """

    def __init__(self, mark: int, tell: Callable[[Next | GiveUp], None]) -> None:
        self.mark = mark
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: SalverError | None = None
        self._tell = tell
        self._ready: _Said | None = None
        self._is_out = False  # the last response is being used
        self._is_asked = False  # the host knows the request
        self._is_given_up = False
        self._came = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Pieces {self.mark}{' over' if self.over.done() else ''}>"

    async def next(self) -> _Said | None:
        """Return the next response and whether it is the last, or None at the end. May be cancelled.

        Raises:
            HostDied: the child died.
            SalverError: raised by the model; no responses follow.
        """
        if self._is_out:
            self._is_out = False
            if not self.over.done():
                self._tell(Next(self.mark))
        while self._ready is None and not self.over.done():
            self._came.clear()
            await self._came.wait()
        if self._ready is not None:
            said, self._ready = self._ready, None
            self._is_out = True
            return said
        if self.error is not None:
            raise self.error
        return None

    def close(self) -> None:
        """Cancel the request; the model is told, and ends it when it likes (``over``)."""
        if not self._is_given_up:
            self._is_given_up, self._ready = True, None
            if self._is_asked and not self.over.done():
                self._tell(GiveUp(self.mark))

    # Called for messages of the host.

    @property
    def is_given_up(self) -> bool:
        """Return whether the request was cancelled."""
        return self._is_given_up

    @property
    def is_untaken(self) -> bool:
        """Return whether a response is unread or in use, for which the model may have to wait."""
        return not self._is_given_up and (self._ready is not None or self._is_out)

    def begin(self) -> None:
        """Note that the host is told of the request in this turn of the loop."""
        self._is_asked = True
        if self._is_given_up:
            asyncio.get_running_loop().call_soon(self._tell, GiveUp(self.mark))

    def put(self, said: Answer | SalverError, is_last: bool) -> None:
        """Store a response.

        Raises:
            ValueError: the previous one has not been consumed yet.
        """
        if self._ready is not None:
            raise ValueError("a response before the last one was taken")
        if not self._is_given_up:
            self._ready = said, is_last
            self._came.set()

    def end(self, error: SalverError | None = None) -> None:
        """End the responses; a second end has no effect."""
        if not self.over.done():
            self.error = error
            self.over.set_result(None)
            self._came.set()


class HostStreams:
    """Streams of the requests that a host answers in pieces.

    Args:
        tell: Sends a message to the host.

    Attributes:
        under_way: Streams of the run that occupies the model.
    """

    def __init__(self, tell: Callable[[Next | GiveUp], None]) -> None:
        self.under_way: Sequence[ResponseStream] = ()
        self._tell = tell
        self._marks = itertools.count(1)
        self._open: dict[int, ResponseStream] = {}  # those that may still receive pieces, by mark

    def open(self, count: int) -> list[ResponseStream]:
        """Return new streams for that many requests."""
        found = [ResponseStream(next(self._marks), self._tell) for _ in range(count)]
        self._open.update((pieces.mark, pieces) for pieces in found)
        return found

    def get(self, mark: int) -> ResponseStream | None:
        """Return an open stream."""
        return self._open.get(mark)

    def end(self, mark: int, error: SalverError | None = None) -> None:
        """End a stream, if it is open."""
        if (pieces := self._open.pop(mark, None)) is not None:
            pieces.end(error)

    def end_all(self, died: Callable[[], SalverError]) -> None:
        """End all open streams, each with an error of its own."""
        for mark in list(self._open):
            self.end(mark, died())

    @property
    def is_given_up(self) -> bool:
        """Return whether nobody reads the responses of the run any more."""
        return bool(self.under_way) and all(pieces.is_given_up for pieces in self.under_way)

    def has_untaken(self) -> bool:
        """Return whether the run may have to wait for a reader."""
        return any(pieces.is_untaken for pieces in self.under_way)
