"""How do responses that a host process sends at any time reach those who asked, each at their own pace?

:class:`Pieces` is the engine's end of :mod:`salver.kernel.engine.outlets`: of one request. It holds one
response at
most, since the model waits until that has been taken.
"""

import asyncio
from collections.abc import Callable

from salver.backends.protocol import Answer
from salver.kernel.engine.control import GiveUp, Next
from salver.words.errors import SalverError

_Said = tuple[Answer | SalverError, bool]


class Pieces:
    """The responses to one request, pulled one by one. Not for two tasks at a time.

    Args:
        mark: Of the request, between engine and host.
        tell: Says something to the host.

    Attributes:
        over: Done when nothing follows, whether or not what came has been taken.
        error: Which ended them early; None = none did.
    """

    def __init__(self, mark: int, tell: Callable[[Next | GiveUp], None]) -> None:
        self.mark = mark
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: SalverError | None = None
        self._tell = tell
        self._ready: _Said | None = None
        self._is_out = False  # the last one is being used
        self._is_asked = False  # the host knows of the request
        self._is_given_up = False
        self._came = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Pieces {self.mark}{' over' if self.over.done() else ''}>"

    async def next(self) -> _Said | None:
        """The next response and whether it is the last; None after it. May be cancelled.

        Raises:
            HostDied: the child is gone.
            SalverError: as the model raised it; it gives no more.
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
        """Nobody wants more of them; the model is told, and ends them when it likes (``over``)."""
        if not self._is_given_up:
            self._is_given_up, self._ready = True, None
            if self._is_asked and not self.over.done():
                self._tell(GiveUp(self.mark))

    # What the host's process says.

    @property
    def is_given_up(self) -> bool:
        """Nobody wants them."""
        return self._is_given_up

    @property
    def is_untaken(self) -> bool:
        """A response waits for its reader, or is being used: the model may have to wait for that."""
        return not self._is_given_up and (self._ready is not None or self._is_out)

    def begin(self) -> None:
        """The host is told of the request in this very turn of the loop."""
        self._is_asked = True
        if self._is_given_up:
            asyncio.get_running_loop().call_soon(self._tell, GiveUp(self.mark))

    def put(self, said: Answer | SalverError, is_last: bool) -> None:
        """A response.

        Raises:
            ValueError: the one before it has not been taken yet.
        """
        if self._ready is not None:
            raise ValueError("a response before the last one was taken")
        if not self._is_given_up:
            self._ready = said, is_last
            self._came.set()

    def end(self, error: SalverError | None = None) -> None:
        """Nothing follows; a second end says nothing."""
        if not self.over.done():
            self.error = error
            self.over.set_result(None)
            self._came.set()
