"""Use of one run, from its beginning to its end, and the delivery of its answer through a callback.

A run whose key has limits or quotas is a charge (charge.py), which builds on this.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from salver.encoding.bodies import HttpBody, HttpReply
from salver.features.access.ports import Meter
from salver.kernel.engine.delivery import nothing
from salver.words.messages import InferRequest, LimitState, Timing

_NO_TOKENS: Final = (0, 0)
_NO_TIME: Final = Timing()


class RunUsage:
    """Use of one run. Implements :class:`~salver.words.messages.Charge` for callers without limits.

    Args:
        meter: Meter of the caller; None = nothing is counted.
        model: Model that was asked for.

    Attributes:
        counts_tokens, has_limits: See :class:`~salver.words.messages.Charge`.
        sent: Bytes of its answer so far.
        reply_to: Receives the reply of a run that is answered through a callback.
        cancel: Cancels such a run.
    """

    __slots__ = (
        *("_counted", "_is_over", "_meter", "_received", "_rows", "_served", "_timing"),
        *("cancel", "reply_to", "sent"),
    )
    cancel: Callable[[], None]
    reply_to: Callable[[Any, Any], None]
    counts_tokens = True
    has_limits = False

    def __init__(self, meter: Meter | None, model: str) -> None:
        self._meter = meter
        self._served = model
        self._is_over = False
        self._rows = self._received = self.sent = 0
        self._timing = _NO_TIME
        #: Tokens of the prompt and of the answer that the meter has.
        self._counted = _NO_TOKENS

    def weigh(self, rows: int, tenant: str) -> bool:
        """See :class:`~salver.words.messages.Charge`."""
        return True

    async def settle(self) -> None:
        """See :class:`~salver.words.messages.Charge`."""

    def states(self) -> Iterable[LimitState]:
        """See :class:`~salver.words.messages.Charge`."""
        return ()

    def add(self, tokens: tuple[int, int] | None) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        if tokens is not None and self._meter is not None:
            before, self._counted = self._counted, tokens
            self._meter.add_tokens(self._served, tokens[0] - before[0], tokens[1] - before[1])

    def end(
        self, model: str, rows: int, timing: Timing, received: int, reply: object, is_weighed: bool, /
    ) -> None:
        """See :class:`~salver.words.messages.Charge`."""
        self._served = model
        self._rows = rows
        self._timing = timing
        self._received = received

    def leave(self, *, has_begun: bool = True) -> None:
        """End the run, once.

        Args:
            has_begun: Otherwise the run begins in another way, which counts it.
        """
        if self._is_over:
            return
        self._is_over = True
        if has_begun and self._meter is not None:
            self._meter.record(self._served, self._rows, self._received, self.sent, self._timing)

    # -- of a run that is answered through a callback ------------------------------------------

    def keep(self, cancel: Callable[[], None]) -> None:
        """Keep the function that cancels the run, unless it has been answered already."""
        if not self._is_over:
            self.cancel = cancel

    def tell(self, reply: Any, write_all: Callable[[Any], Awaitable[None]] | None) -> None:
        """Pass an answer on; one in pieces ends with the last of them."""
        if write_all is None:
            self.sent = len(reply.body) if type(reply) is HttpReply else size_of(reply)
            reply_to = self.reply_to
            self.cancel, self.reply_to = nothing, _nobody  # breaks the reference cycles of each request
            self.leave()
            reply_to(reply, None)
            return

        async def write(piece: Any) -> None:
            try:
                await write_all(self.counting(piece))
            finally:
                self.cancel = nothing
                self.leave()

        reply_to, self.reply_to = self.reply_to, _nobody
        reply_to(reply, write)

    def give_up(self) -> None:
        """Cancel the run."""
        if not self._is_over:
            self.cancel()
            self.cancel, self.reply_to = nothing, _nobody
            self.leave()

    def counting(self, write: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        """Return a function that writes pieces of an answer and counts their bytes."""

        async def count(piece: Any) -> None:
            self.sent += size_of(piece)
            await write(piece)

        return count


def _nobody(reply: object, write_all: object) -> None:
    """Drop an answer that comes after the run was cancelled."""


def size_of(message: Any) -> int:
    """Return the bytes of a request or reply of any transport.

    >>> size_of(b"12"), size_of([b"12", b"3"]), size_of(None)
    (2, 3, 0)
    """
    kind = type(message)
    if kind is bytes or kind is memoryview:
        return len(message)
    if kind is HttpBody and message.large is None:
        return len(message.body)
    if kind is InferRequest:  # a message over gRPC that is decoded already: its tensors
        return sum([each.array.nbytes for each in message.inputs])
    if isinstance(message, list | tuple):
        return sum(map(size_of, message))
    if getattr(message, "large", None) is not None:
        return len(message.large)
    return size_of(getattr(message, "body", None) or getattr(message, "message", None) or ())
