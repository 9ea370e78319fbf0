"""Data plane: the path of inference requests of every protocol.

The life of a request is its :class:`~salver.kernel.serving.exchange.Exchange`; this module delivers the
answer whole, in pieces, or through a callback.
"""

import asyncio
import functools
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

import msgspec
import numpy as np

from salver.kernel.lifecycle.ports import Absent
from salver.kernel.serving.capabilities import PLAIN, Capabilities
from salver.kernel.serving.exchange import Exchange, RequestPath, has_sequences, why_failed
from salver.kernel.serving.leases import HeldVersions, Quiet
from salver.kernel.serving.ports import Codec, Inferring, Lessor
from salver.lazy import lazy_imports
from salver.words.errors import Cancelled, Code, ModelFailed, NotOneResponse, SalverError
from salver.words.events import Event
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, Standing
from salver.words.tensor import DataType, Tensor

with lazy_imports():
    from salver.kernel.serving.callbacks import PostedExchange, Tell


BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class DataPlane(Generic[BodyT, ReplyT]):
    """Entry point for inference requests of every protocol.

    Args:
        path: Settings and collaborators that all requests share.
    """

    def __init__(self, path: RequestPath) -> None:
        self.path = path

    def holding(
        self, models: Iterable[tuple[str, str]]
    ) -> tuple["DataPlane[BodyT, ReplyT]", HeldVersions[Inferring]]:
        """Return a plane of the current versions of these models, with the object that releases them.

        Raises:
            NotFound, NotReady: a model is not ready.
        """
        held = HeldVersions(self.path.lessor, models)
        return self._within(held), held

    def quiet(self) -> "DataPlane[BodyT, ReplyT]":
        """Return a plane of the same models without response cache, request log and statistics."""
        return self._within(Quiet(self.path.lessor), _ignore)

    def _within(
        self, lessor: Lessor[Inferring], emit: Callable[[Event], None] | None = None
    ) -> "DataPlane[BodyT, ReplyT]":
        """Return a plane for requests of the server itself, which never begin a trace."""
        emit = emit or self.path.emit
        return DataPlane(msgspec.structs.replace(self.path, lessor=lessor, emit=emit, samples=None))

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """Return the version that answers now, with its signature; of an absent one what was learned of it.

        Raises:
            NotFound, NotReady: no version answers.
        """
        try:
            lease = self.path.lessor.acquire(model, version)
        except Absent as absent:
            if absent.outline is None:
                raise
            return absent.id, absent.outline.signature
        try:
            return lease.id, lease.servable.signature
        finally:
            lease.release()

    def capabilities(self, model: str, version: str = "") -> Capabilities:
        """Return a model's capabilities; those of a plain model if it is unknown."""
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
        """Return whether any number of responses may answer a request; False for unknown models."""
        try:
            lease = self.path.lessor.acquire(model, version)
        except Absent as absent:
            return absent.outline is not None and absent.outline.is_decoupled
        except SalverError:
            return self.capabilities(model, version).is_decoupled
        try:
            return lease.servable.capabilities.is_decoupled
        finally:
            lease.release()

    def foresee(self, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call) -> None:
        """Refuse a request of which only the head has come, if it can only be late.

        Raises:
            Overloaded, DeadlineExceeded: as ``infer`` would answer, once the body had come.
        """
        path = self.path
        try:
            lease = path.lessor.acquire(model, version)
        except SalverError:
            return  # ``infer`` tells it
        foresee = lease.servable.capabilities.foresee
        if foresee is None or path.stage is not None:
            lease.release()
            return
        try:
            foresee(call)
        except SalverError as error:
            exchange = Exchange(path, codec, model, version, call)
            exchange.use(lease)
            exchange.end(error.code.value, error.why)
            raise
        lease.release()

    async def infer(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        sender: Hashable = None,
    ) -> ReplyT:
        """Answer one request; errors are returned in the protocol's form.

        Args:
            version: Version that the caller named; empty = the server's choice.
            call: Context of the request.
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
            exchange.count_tokens(response)
            if passage is not None:
                why = why_failed(response)
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
        """Answer one request in pieces, each encoded and written as soon as it exists.

        Args:
            write: Receives each reply; raises Cancelled to cancel the request. None = return one reply, of
                the joined parts or the only piece.

        Returns:
            The one reply, or an error before anything was written; else None, and errors are written as well.
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
            wanted = None
            if passage is not None and exchange.is_wanted():
                wanted = passage
            are_parts = exchange.servable.capabilities.gives_parts
            async with aclosing(_pieces(exchange)) as answer:
                async for response in answer:
                    exchange.timing = response.timing
                    exchange.count_tokens(response)
                    exchange.first = exchange.first or exchange.passed()
                    if passage is not None:
                        why = why_failed(response) or why
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
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """Answer one request through a callback, without a task.

        Args:
            tell: Called once, possibly before this returns, with the reply; or, for a streamed answer, with
                None and a function that writes all pieces.

            takes_pieces: The model may answer in pieces.

        Returns:
            A function that cancels the request; None = not started, and ``infer`` or ``stream`` must be
            called instead: the model cannot call back, the body is large and of no known layout, or a stage
            has to see the request.
        """
        posted = PostedExchange(self.path, codec, model, version, call)
        passage = posted.passage
        try:
            if passage is None:
                lease = self.path.lessor.acquire(model, version)
            else:
                lease, _ = posted.leased(passage)
        except SalverError:
            if passage is not None:
                passage.end(has_begun=False)  # infer or stream starts over
            return None
        capabilities = lease.servable.capabilities
        post = capabilities.post
        if (
            post is None
            or capabilities.sequences is not None  # the sequence may be active in another version
            or capabilities.recording is not None
            or (call.is_large and (lease.servable.signature.takes_forms or codec.weigh(body)))
            or (capabilities.stream is not None and not (takes_pieces and passage is None))
            or (passage is not None and passage.is_open)
        ):
            lease.release()
            if passage is not None:
                passage.end(has_begun=False)
            return None
        posted.lease, posted.servable = lease, lease.servable  # written out, as it is done for each request
        if posted.post(post, body, tell):
            return posted.give_up
        return None


async def _encoded(codec: Codec[BodyT, ReplyT], request: InferRequest, response: InferResponse) -> ReplyT:
    if codec.takes_long(response):
        return await asyncio.to_thread(codec.encode, request, response)
    return codec.encode(request, response)


def _ignore(event: Event) -> None:
    """Drop an event."""


def _pieces(exchange: Exchange[BodyT, ReplyT]) -> AsyncGenerator[InferResponse, None]:
    """Return the pieces of an answer; one piece if the model answers whole."""
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
    """Return the pieces as one answer."""
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
    """Join the pieces of an answer: texts are concatenated, other tensors appended along axis 0.

    Args:
        pieces: At least one piece; all have the same outputs.
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
