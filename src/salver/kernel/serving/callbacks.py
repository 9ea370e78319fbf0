"""Delivery of answers through callbacks, without a task for each request.

:meth:`salver.kernel.serving.dataplane.DataPlane.post` starts one.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from salver.kernel.engine.delivery import nothing, run
from salver.kernel.serving.capabilities import Post
from salver.kernel.serving.exchange import NO_TIME, Exchange, RequestPath, why_failed
from salver.words.errors import Cancelled, Code, Overloaded
from salver.words.events import Refused, Served
from salver.words.messages import InferResponse

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")
_WriteAll = Callable[[Callable[[ReplyT], Awaitable[None]]], Awaitable[None]]
#: Receives a reply; or None and a function that writes all pieces of the reply.
Tell = Callable[[ReplyT | None, _WriteAll[ReplyT] | None], None]


class PostedExchange(Exchange[BodyT, ReplyT]):
    """Exchange that calls its caller back, once. It must have a lease before it is posted."""

    __slots__ = ("_give_up", "_is_over", "_tell")

    _tell: Tell[ReplyT]
    _give_up: Callable[[], None]

    def post(self, post: Post, body: BodyT, tell: Tell[ReplyT]) -> bool:
        """Have the model answer; return False if the request needs a task.

        Args:
            tell: Called once, with the reply, or with None and a function that writes its pieces.
        """
        self._tell = tell
        self._is_over = False
        self._give_up = nothing
        servable = self.servable
        try:
            if (foresee := servable.capabilities.foresee) is not None:
                try:
                    foresee(self.call)
                except Overloaded as error:
                    if error.recur is not None and self.passage is None and self._path.samples is None:
                        self.call.alike = RefusedAlike(self._path, self, error.recur, error.why)
                    raise
            request = self.codec.decode(body, servable.signature)
            if (
                "sequence_id" in request.parameters and not servable.capabilities.takes_forms
            ) or not self.accept(request):
                assert self.lease is not None
                self.lease.release()
                if self.passage is not None:
                    self.passage.end(has_begun=False)
                return False
            self._give_up = post(self.request, self.deadline, self._told, self.standing)
        except Exception as error:
            self._tell(self._failed(error), None)
        return True

    def give_up(self) -> None:
        """Cancel the request because its caller is gone; without effect once it is answered."""
        if not self._is_over:
            self._give_up()
            self._is_over = True
            self.end(Code.CANCELLED.value)

    def _told(
        self,
        said: InferResponse | Exception,
        others: AsyncGenerator[InferResponse, None] | None,
        reply: ReplyT | None = None,
    ) -> None:
        try:
            if isinstance(said, Exception):
                raise said
            capabilities = self.servable.capabilities
            if reply is None:
                if capabilities.may_be_long and self.codec.takes_long(said):
                    work = asyncio.to_thread(self.codec.encode, self.request, said)
                    self._give_up = run(functools.partial(self._encoded, said, others), work)
                    return
                reply = self.codec.encode(self.request, said)
            why = self._noted(said) if self.passage is not None else ""
        except Exception as error:
            self._tell(self._failed(error), None)
            return
        if capabilities.stream is not None:
            self.first = self.passed()
            self.count_tokens(said)
        if others is None:
            self._is_over = True
            self.timing = said.timing
            self.end("ok", why, reply)
            self._tell(reply, None)
        else:
            self._tell(None, functools.partial(self._write, reply, others))

    def _encoded(
        self,
        said: InferResponse,
        others: AsyncGenerator[InferResponse, None] | None,
        reply: ReplyT | Exception,
        rest: None,
    ) -> None:
        """Answer with a reply that was encoded on a thread."""
        if isinstance(reply, Exception):
            self._told(reply, None)
        else:
            self._told(said, others, reply)

    def _noted(self, answer: InferResponse) -> str:
        """Give the stage an answer that it wants; return why it counts as failed, if it does."""
        why = why_failed(answer)
        if self.passage is not None and self.is_wanted():
            self.passage.answered(self.request, (answer,), why)
        return why

    async def _write(
        self,
        first: ReplyT,
        others: AsyncGenerator[InferResponse, None],
        write: Callable[[ReplyT], Awaitable[None]],
    ) -> None:
        """Write all pieces, and an error among them."""
        try:
            await write(first)
            async with aclosing(others):
                async for piece in others:
                    self.timing = piece.timing  # the last piece's timing counts
                    self.count_tokens(piece)
                    await write(self.codec.encode(self.request, piece))
            self._is_over = True
            self.end()
        except Exception as error:
            fault = self._failed(error)
            with suppress(Cancelled):
                await write(fault)
        finally:  # if it has not ended, the caller went away
            self.give_up()

    def _failed(self, error: Exception) -> ReplyT:
        self._is_over = True
        self._give_up()
        return self.fail(error)


class RefusedAlike:
    """Requests that are refused like a first one, by their heads.

    Args:
        first: The first one.
        count: Records so many others, at a time.
        why: Limit that was reached.
    """

    __slots__ = ("_count", "_ids", "_path", "_served")

    def __init__(
        self, path: RequestPath, first: Exchange[Any, Any], count: Callable[[int, float], None], why: str
    ) -> None:
        assert first.lease is not None
        self._path = path
        self._count = count
        self._ids: list[str] = []
        id, call = first.lease.id, first.call
        self._served = Served(
            id.name, id.version, call.protocol, Code.OVERLOADED.value, 0.0, NO_TIME,
            why=why, arrival=call.arrival, api=call.api, asked=first.version,
        )  # fmt: skip

    def new_id(self) -> str:
        """Return the id of another such request."""
        id = self._path.new_id()
        self._ids.append(id)
        return id

    def close(self) -> int:
        """Count them; return their number."""
        if self._ids:
            self._count(len(self._ids), self._path.clock())
            self._path.emit(Refused(self._served, self._ids))
        return len(self._ids)
