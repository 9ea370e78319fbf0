"""The one path of inference requests, whatever their protocol.

The life of a request is its :class:`~salver.kernel.serving.exchange.Exchange`; this module delivers the
answer: whole, in pieces, or through a callback.
"""

import asyncio
import functools
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

import msgspec
import numpy as np

from salver.kernel.serving.capabilities import PLAIN, Capabilities
from salver.kernel.serving.exchange import Exchange, RequestPath, has_sequences
from salver.kernel.serving.leases import HeldVersions, Quiet
from salver.kernel.serving.ports import Codec, Inferring, Lessor
from salver.lazy import lazy_imports
from salver.words.errors import Cancelled, Code, ModelFailed, NotOneResponse, SalverError
from salver.words.events import Event
from salver.words.handlers import status_of
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, Standing
from salver.words.tensor import DataType, Tensor

with lazy_imports():
    from salver.kernel.serving.callbacks import PostedExchange, Tell


BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class DataPlane(Generic[BodyT, ReplyT]):
    """Answers inference requests of every protocol.

    Args:
        path: What all requests have in common.
    """

    def __init__(self, path: RequestPath) -> None:
        self.path = path

    def holding(
        self, models: Iterable[tuple[str, str]]
    ) -> tuple["DataPlane[BodyT, ReplyT]", HeldVersions[Inferring]]:
        """Return a plane of the very versions of these models that answer now, until they are given back.

        Raises:
            NotFound, NotReady: one of them does not answer.
        """
        held = HeldVersions(self.path.lessor, models)
        return self._within(held), held

    def quiet(self) -> "DataPlane[BodyT, ReplyT]":
        """Return a plane of the same models that leaves no trace: no kept answers, no log, no counts."""
        return self._within(Quiet(self.path.lessor), _ignore)

    def _within(
        self, lessor: Lessor[Inferring], emit: Callable[[Event], None] | None = None
    ) -> "DataPlane[BodyT, ReplyT]":
        """Return a plane for requests that the server makes itself; none of them begins a trace."""
        emit = emit or self.path.emit
        return DataPlane(msgspec.structs.replace(self.path, lessor=lessor, emit=emit, samples=None))

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """Return which version answers now, and what it expects and gives.

        Raises:
            NotFound, NotReady: none does.
        """
        lease = self.path.lessor.acquire(model, version)
        try:
            return lease.id, lease.servable.signature
        finally:
            lease.release()

    def capabilities(self, model: str, version: str = "") -> Capabilities:
        """Return what a model can do; an unknown one can do nothing special."""
        lessor = self.path.lessor
        try:
            lease = lessor.acquire(model, version)
        except SalverError:
            other = lessor.other(model, version, has_sequences)
            if other is None:
                return PLAIN
            lease = other
        try:
            return lease.servable.capabilities
        finally:
            lease.release()

    def is_decoupled(self, model: str, version: str = "") -> bool:
        """Return whether any number of responses may answer a request; unknown models give one."""
        return self.capabilities(model, version).is_decoupled

    async def infer(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        sender: Hashable = None,
    ) -> ReplyT:
        """Answer one request; an error becomes the protocol's own form of it.

        Args:
            version: As the caller named it; empty leaves the choice to the server.
            call: How the request came.
            sender: Requests of one sender keep their order.
        """
        exchange = Exchange(self.path, codec, model, version, call)
        why = ""
        try:
            rest = exchange.begin(body)
            if rest is not None:
                await rest
            request, servable, passage = exchange.request, exchange.servable, exchange.passage
            response = await servable.infer(request, exchange.deadline, sender, exchange.standing)
            exchange.timing = response.timing
            if passage is not None:
                why = _why(response)
            if codec.takes_long(response):
                reply = await asyncio.to_thread(codec.encode, request, response)
            else:
                reply = codec.encode(request, response)
            if servable.capabilities.recording is not None:
                exchange.record(response)
            if passage is not None and exchange.is_wanted():
                passage.answered(request, (response,), why)
        except Exception as error:
            return exchange.fail(error)
        except BaseException:  # cancelled: the caller went away
            exchange.end(Code.CANCELLED.value, why)
            raise
        exchange.end("ok", why)
        return reply

    async def stream(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        write: Callable[[ReplyT], Awaitable[None]] | None = None,
    ) -> ReplyT | None:
        """As ``infer``, of models that may answer in pieces: each is encoded and written when it is there.

        Args:
            write: Takes each reply; raises Cancelled once nobody reads them, which gives the request up.
                None = there is one reply, of parts that are joined or of the only piece.

        Returns:
            The one reply, or the error that came before anything was written; None after that, when an
            error too has been written.
        """
        exchange = Exchange(self.path, codec, model, version, call)
        outcome, why = "ok", ""
        has_begun, pieces = False, list[InferResponse]()
        reply: ReplyT | None = None
        try:
            rest = exchange.begin(body)
            if rest is not None:
                await rest
            request, passage = exchange.request, exchange.passage
            wanted = passage if passage is not None and exchange.is_wanted() else None
            are_parts = exchange.servable.capabilities.gives_parts
            async with aclosing(_pieces(exchange)) as answer:
                async for response in answer:
                    exchange.timing = response.timing
                    exchange.first = exchange.first or exchange.passed()
                    if passage is not None:
                        why = _why(response) or why
                    if write is None:
                        pieces.append(response)
                        if len(pieces) == 1 or are_parts:
                            continue
                        break
                    if wanted is not None:
                        wanted.keep(response)
                    if response.error is not None:
                        outcome, why = response.error.code.value, response.error.why or "response"
                    piece = await _encoded(codec, request, response)
                    has_begun = True
                    await write(piece)
            if write is None:
                reply = await _encoded(codec, request, _whole(pieces, are_parts))
            if wanted is not None:
                wanted.answered(request, pieces if write is None else None, why)
        except Exception as error:
            own = exchange.known(error)
            reply = exchange.refuse(own)
            error.__traceback__ = None
            if write is not None and (has_begun or own.is_late or isinstance(own, ModelFailed)):
                fault, reply = reply, None
                with suppress(Cancelled):
                    await write(fault)
            return reply
        except BaseException:
            exchange.end(Code.CANCELLED.value, why)
            raise
        exchange.end(outcome, why)
        return reply

    def post(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        tell: Tell[ReplyT],
        *,
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """As ``stream``, without a task, of a model that calls back.

        Args:
            tell: Called once, perhaps before this returns: with the reply; or, where it comes in pieces, with
                None and what writes them all.

            takes_pieces: The model may answer in pieces.

        Returns:
            What gives the request up, if nobody has been told; None = nothing has begun, and ``infer`` or
            ``stream`` is to be called: it is another kind of model or a large body, or a stage takes part.
        """
        try:
            lease = self.path.lessor.acquire(model, version)
        except SalverError:
            return None
        capabilities = lease.servable.capabilities
        post = capabilities.post
        if (
            post is None
            or capabilities.sequences is not None  # the sequence may be under way in another version
            or capabilities.recording is not None
            or call.is_large
            or (capabilities.stream is not None and not takes_pieces)
        ):
            lease.release()
            return None
        posted = PostedExchange(self.path, codec, model, version, call)
        posted.use(lease)
        if posted.passage is not None:
            posted.passage.end()  # it begins again
            lease.release()
            return None
        return posted.give_up if posted.post(post, body, tell) else None


async def _encoded(codec: Codec[BodyT, ReplyT], request: InferRequest, response: InferResponse) -> ReplyT:
    if codec.takes_long(response):
        return await asyncio.to_thread(codec.encode, request, response)
    return codec.encode(request, response)


def _ignore(event: Event) -> None:
    """Tell nobody."""


def _why(response: InferResponse) -> str:
    """``status`` of a response by which a handler says that it has failed; releases count those."""
    has_failed = response.parameters and status_of(response.parameters) >= 500
    return "status" if has_failed else ""


def _pieces(exchange: Exchange[BodyT, ReplyT]) -> AsyncGenerator[InferResponse, None]:
    """Return the pieces of an answer; one, of a model that gives it whole."""
    servable, request, deadline = exchange.servable, exchange.request, exchange.deadline
    stream = servable.capabilities.stream
    if stream is not None:
        return stream(request, deadline, exchange.standing)
    return _only_piece(servable, request, deadline, exchange.standing)


async def _only_piece(
    servable: Inferring, request: InferRequest, deadline: float | None, standing: Standing
) -> AsyncGenerator[InferResponse, None]:
    whole = await servable.infer(request, deadline, None, standing)
    yield msgspec.structs.replace(whole, is_last=True)


def _whole(pieces: Sequence[InferResponse], are_parts: bool) -> InferResponse:
    """Return the one answer that was asked for."""
    if not are_parts and len(pieces) != 1:
        raise NotOneResponse(
            "generate expects model to produce exactly 1 response, use generate stream for model that "
            "generates various number of responses"
        )
    if not pieces:
        raise ModelFailed("the model gave no answer")
    for piece in pieces:
        if piece.error is not None:
            raise piece.error
    return joined(pieces)


def joined(pieces: Sequence[InferResponse]) -> InferResponse:
    """Return one answer of its pieces: texts are strung together, other tensors appended along axis 0.

    Args:
        pieces: At least one, of the same outputs.
    """
    last = pieces[-1]
    if len(pieces) == 1:
        return last
    outputs = []
    for index, tensor in enumerate(last.outputs):
        arrays = [piece.outputs[index].array for piece in pieces]
        if tensor.datatype is DataType.BYTES:
            array = functools.reduce(operator.add, arrays)
        else:
            array = np.concatenate(arrays)
        outputs.append(Tensor(tensor.name, tensor.datatype, array))
    return msgspec.structs.replace(last, outputs=tuple(outputs))
