"""Deliver an answer through a callback, to a caller that waits in no task.

:meth:`salver.kernel.serving.dataplane.DataPlane.post` begins one. Neither transport nor engine is known here.
"""

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from salver.kernel.serving.capabilities import Post
from salver.kernel.serving.exchange import Exchange
from salver.words.errors import Cancelled, Code, SalverError
from salver.words.messages import InferResponse

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")
_WriteAll = Callable[[Callable[[ReplyT], Awaitable[None]]], Awaitable[None]]
#: Takes a reply; or None, and what writes all its pieces.
Tell = Callable[[ReplyT | None, _WriteAll[ReplyT] | None], None]


class Posted(Generic[BodyT, ReplyT]):
    """One request whose caller is called back, once.

    Args:
        exchange: Has a lease already.
        tell: Called once, with the reply, or with None and what writes its pieces.
    """

    __slots__ = ("_exchange", "_give_up", "_is_over", "_tell")

    def __init__(self, exchange: Exchange[BodyT, ReplyT], tell: Tell[ReplyT]) -> None:
        self._exchange = exchange
        self._tell = tell
        self._is_over = False
        self._give_up: Callable[[], None] | None = None

    def begin(self, post: Post, body: BodyT) -> None:
        """Have the model answer."""
        exchange = self._exchange
        try:
            exchange.accept(exchange.codec.decode(body, exchange.servable.signature))
            self._give_up = post(exchange.request, exchange.deadline, self._told)
        except Exception as error:
            self._tell(self._failed(error), None)

    def give_up(self) -> None:
        """End the request, since its caller has gone; without effect once it has its answer."""
        if not self._is_over:
            if self._give_up is not None:
                self._give_up()
            self._is_over = True
            self._exchange.end(Code.CANCELLED.value)

    def _told(
        self, said: InferResponse | SalverError, others: AsyncGenerator[InferResponse, None] | None
    ) -> None:
        exchange = self._exchange
        try:
            if isinstance(said, SalverError):
                raise said
            reply = exchange.codec.encode(exchange.request, said)
        except Exception as error:
            self._tell(self._failed(error), None)
            return
        exchange.first = exchange.passed()
        if others is None:
            self._end(said)
            self._tell(reply, None)
        else:
            self._tell(None, functools.partial(self._write, reply, others))

    async def _write(
        self,
        first: ReplyT,
        others: AsyncGenerator[InferResponse, None],
        write: Callable[[ReplyT], Awaitable[None]],
    ) -> None:
        """Write all pieces, and what went wrong with them."""
        exchange = self._exchange
        last: InferResponse | None = None
        try:
            await write(first)
            async with aclosing(others):
                async for last in others:
                    await write(exchange.codec.encode(exchange.request, last))
            self._end(last)
        except Exception as error:
            fault = self._failed(error)
            with suppress(Cancelled):
                await write(fault)
        finally:  # the caller went away, unless it is over
            self.give_up()

    def _end(self, last: InferResponse | None) -> None:
        """End well; the time is that of the last piece."""
        if last is not None:
            self._exchange.timing = last.timing
        self._is_over = True
        self._exchange.end()

    def _failed(self, error: Exception) -> ReplyT:
        self._is_over = True
        if self._give_up is not None:
            self._give_up()
        return self._exchange.fail(error)
