"""How is a request answered whose asker is called back, and waits in no task?

:meth:`salver.kernel.serving.dataplane.DataPlane.post` begins one. It is told and announced once, whatever
happens. Neither transport nor engine is known here.
"""

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Generic, Protocol, TypeVar

from salver.features.releases.experiments.router import Plan
from salver.kernel.serving.ports import Codec, Inferring
from salver.words.errors import Cancelled, Code, SalverError
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, Standing, Timing

_NO_TIME = Timing()
BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")
_WriteAll = Callable[[Callable[[ReplyT], Awaitable[None]]], Awaitable[None]]
#: Takes a reply; or None, and what writes all its pieces.
Tell = Callable[[ReplyT | None, _WriteAll[ReplyT] | None], None]
#: As of :meth:`salver.dialects.torchserve.engine.engine.HandlerEngine.post`.
_Told = Callable[[InferResponse | SalverError, AsyncGenerator[InferResponse, None] | None], None]
_Post = Callable[[InferRequest, float | None, _Told], Callable[[], None]]


class Held(Protocol):
    """The right to use a loaded version until it is released."""

    @property
    def id(self) -> ModelId:
        """Which version it is."""
        ...

    @property
    def servable(self) -> Inferring:
        """What answers."""
        ...

    def release(self) -> None:
        """Give it back, exactly once."""
        ...


class Plane(Protocol):
    """What the door does of every request (kernel/serving/dataplane.py)."""

    def passed(self, call: Call) -> float:
        """Seconds since it came."""
        ...

    def amended(
        self, request: InferRequest, call: Call, servable: Inferring
    ) -> tuple[InferRequest, float | None, Standing]:
        """The request, its deadline and its standing, by all that is said of them."""
        ...

    def own(self, error: Exception, model: str, call: Call) -> SalverError:
        """What the caller may know of an error."""
        ...

    def announce(
        self,
        served: ModelId,
        outcome: str,
        call: Call,
        timing: Timing,
        rows: int,
        size: int,
        why: str,
        standing: Standing,
        first: float,
        asked: str,
        plan: Plan | None,
    ) -> None:
        """It has its answer."""
        ...


class Posted(Generic[BodyT, ReplyT]):
    """One request whose asker is called back.

    Args:
        lease: Released when the request has its answer.
        asked: The version that the caller named; empty = none.
        tell: Called once, with the reply, or with None and what writes its pieces.
    """

    __slots__ = (
        "_asked", "_call", "_codec", "_first", "_give_up", "_is_over", "_lease", "_plane", "_request",
        "_rows", "_size", "_standing", "_tell",
    )  # fmt: skip

    def __init__(
        self,
        plane: Plane,
        codec: Codec[BodyT, ReplyT],
        lease: Held,
        call: Call,
        asked: str,
        tell: Tell[ReplyT],
    ) -> None:
        self._plane = plane
        self._codec = codec
        self._lease = lease
        self._call = call
        self._asked = asked
        self._tell = tell
        self._standing = call.standing
        self._rows = self._size = 0
        self._first = 0.0
        self._is_over = False
        self._give_up: Callable[[], None] | None = None

    def begin(self, post: _Post, body: BodyT) -> None:
        """Have the model answer."""
        plane, call, servable = self._plane, self._call, self._lease.servable
        try:
            request = self._codec.decode(body, servable.signature)
            request, deadline, self._standing = plane.amended(request, call, servable)
            self._request = request
            self._rows, self._size = extent(request, servable.signature)
            self._give_up = post(request, deadline, self._told)
        except Exception as error:
            self._tell(self._failed(error), None)

    def give_up(self) -> None:
        """The caller has gone."""
        if not self._is_over:
            if self._give_up is not None:
                self._give_up()
            self._end(Code.CANCELLED.value)

    def _told(
        self, said: InferResponse | SalverError, others: AsyncGenerator[InferResponse, None] | None
    ) -> None:
        try:
            if isinstance(said, SalverError):
                raise said
            reply = self._codec.encode(self._request, said)
        except Exception as error:
            reply, others = self._failed(error), None
        else:
            self._first = self._plane.passed(self._call)
            if others is None:
                self._end("ok", said.timing)
        if others is None:
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
        timing = _NO_TIME
        try:
            await write(first)
            async with aclosing(others):
                async for piece in others:
                    timing = piece.timing
                    await write(self._codec.encode(self._request, piece))
            self._end("ok", timing)
        except Exception as error:
            fault = self._failed(error)
            with suppress(Cancelled):
                await write(fault)
        finally:  # the caller went away, unless it is over
            self.give_up()

    def _failed(self, error: Exception) -> ReplyT:
        own = self._plane.own(error, self._lease.id.name, self._call)
        self._end(own.code.value, why=own.why)
        if self._give_up is not None:
            self._give_up()
        reply = self._codec.fault(own)
        own.__traceback__ = error.__traceback__ = None
        return reply

    def _end(self, outcome: str, timing: Timing = _NO_TIME, why: str = "") -> None:
        self._is_over = True
        served = self._lease.id
        self._lease.release()
        self._plane.announce(
            served,
            outcome,
            self._call,
            timing,
            self._rows,
            self._size,
            why,
            self._standing,
            self._first,
            self._asked,
            None,
        )


def extent(request: InferRequest, signature: Signature) -> tuple[int, int]:
    """Rows of the first input, one where there is no batch dimension, and bytes of all inputs."""
    inputs, is_batched = request.inputs, signature.batched
    if request.signature:
        is_batched = (signature.named(request.signature) or signature).batched
    if not inputs:
        return 0 if is_batched else 1, 0
    first = inputs[0].array
    size: int = first.nbytes if len(inputs) == 1 else sum(tensor.array.nbytes for tensor in inputs)
    return (first.shape[0] if first.ndim else 0) if is_batched else 1, size
