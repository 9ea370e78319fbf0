"""How is one request answered, whatever its protocol?

The one door: decode, lease a loaded version, queue and run, encode, release, announce. It
knows neither HTTP nor gRPC (a codec does) and no queue (the engine does).
"""

import asyncio
import functools
import logging
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Generic, Protocol, TypeVar

import msgspec
import numpy as np

from salver.features.releases.experiments.answers import Pieces
from salver.features.releases.experiments.router import Plan, Router
from salver.features.releases.splitting import Splitting, has_failed
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.callbacks import Posted, Tell, extent
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.ports import Codec, Inferring
from salver.kernel.serving.standing import PARAMETERS as STANDING_PARAMETERS
from salver.kernel.serving.standing import from_parameters
from salver.words import traceparent as w3c
from salver.words.errors import (
    Cancelled,
    Code,
    Internal,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotOneResponse,
    NotReady,
    SalverError,
    tritons,
)
from salver.words.events import Predicted, Served
from salver.words.messages import (
    Call,
    InferRequest,
    InferResponse,
    ModelId,
    Parameter,
    Signature,
    Standing,
    Timing,
)
from salver.words.tensor import DataType, Tensor

_LOG = logging.getLogger("salver.dataplane")
_NO_TIME = Timing()
_UNSEEN = Pieces()  # by nobody who takes them
_NOBODY = ModelId("", "")  # unknown models never become labels

#: As of :class:`salver.kernel.serving.ports.Streaming`.
_Stream = Callable[[InferRequest, float | None, Standing], AsyncGenerator[InferResponse, None]]
ServableT = TypeVar("ServableT", covariant=True)
BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class Lease(Protocol[ServableT]):
    """The right to use a loaded version until it is released."""

    @property
    def id(self) -> ModelId:
        """Which version it is."""
        ...

    @property
    def servable(self) -> ServableT:
        """What answers."""
        ...

    def release(self) -> None:
        """Give it back, exactly once."""
        ...


class Lessor(Protocol[ServableT]):
    """Hands out leases (lifecycle's manager)."""

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Raises NotFound or NotReady; never waits."""
        ...

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """On a copy of which this is true, be it one that is replaced; None = there is none."""
        ...


class _Borrowed(msgspec.Struct, Generic[ServableT], frozen=True):
    """A lease that somebody else holds."""

    id: ModelId
    servable: ServableT

    def release(self) -> None:
        """Nothing."""


class Held(Generic[ServableT]):
    """Leases on some models, held together: a lessor of them and of no others.

    Args:
        models: Names and versions; an empty version is the newest that is ready now, and stays the one.

    Raises:
        NotFound, NotReady: as the lessor; then none is held.
    """

    def __init__(self, lessor: Lessor[ServableT], models: Iterable[tuple[str, str]]) -> None:
        self._lessor = lessor
        self._leases: list[Lease[ServableT]] = []
        self._borrowed: dict[tuple[str, str], _Borrowed[ServableT]] = {}
        try:
            for name, version in dict.fromkeys(models):
                lease = lessor.acquire(name, version)
                self._leases.append(lease)
                self._borrowed[name, version] = _Borrowed(lease.id, lease.servable)
        except BaseException:
            self.release()
            raise

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """A lease that lasts as long as all of them; of another version (of a release) one of its own."""
        return self._borrowed.get((name, version)) or self._lessor.acquire(name, version)

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """A lease of its own, as the lessor gives it."""
        return self._lessor.other(name, version, is_wanted)

    def release(self) -> None:
        """Give all back, when no request to them is under way; a second call does nothing."""
        while self._leases:
            self._leases.pop().release()


class DoorRules(msgspec.Struct, frozen=True):
    """What the owner wants of the door.

    Attributes:
        samples: Shall a request that comes without a trace begin one? None = none does.
        keeps_timeouts: A request's ``timeout`` is a deadline, where its model has no queue policy.
        splits: Which requests go to which versions; None = no model is ever in a release.
        decoders: Decode large bodies; None = large and small are decoded alike.
        tritons_words: Errors are told in Triton's words.
    """

    samples: Callable[[], bool] | None = None
    keeps_timeouts: bool = True
    splits: Splitting | None = None
    decoders: Decoders | None = None
    tritons_words: bool = False


_PLAIN = DoorRules()
#: Parameters that a header must not become (TR-R23).
_RESERVED = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)


class DataPlane(Generic[BodyT, ReplyT]):
    """Answers inference requests of every protocol.

    Args:
        lessor: Whom to ask for a loaded version.
        bus: Told of every answer.
        clock: Monotonic seconds, the same as the engines'.
        new_id: Makes incident ids for defects, and ids of spans: 16 hexadecimal digits.
    """

    def __init__(
        self,
        lessor: Lessor[Inferring],
        bus: Bus,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        rules: DoorRules = _PLAIN,
    ) -> None:
        self._keeps_timeouts = rules.keeps_timeouts
        self._tritons_words = rules.tritons_words
        self._samples = rules.samples
        self._splits = rules.splits or Splitting(Router())
        self._decoders = rules.decoders
        self._lessor = lessor
        self._bus = bus
        self._acquire = lessor.acquire
        self._emit = bus.emit
        self._clock = clock
        self.new_id = new_id

    def inherit(self, call: Call) -> None:
        """What is known of the request in whose service it is asked is known of this one, too."""
        self._splits.inherit(call)

    def holding(
        self, models: Iterable[tuple[str, str]]
    ) -> tuple["DataPlane[BodyT, ReplyT]", Held[Inferring]]:
        """A door to the very versions of these models that answer now, until they are given back.

        Raises:
            NotFound, NotReady: one of them does not answer.
        """
        held = Held(self._lessor, models)
        return self.through(lambda lessor: held), held

    def through(
        self,
        lessor: Callable[[Lessor[Inferring]], Lessor[Inferring]],
        bus: Bus | None = None,
        splits: Callable[[Splitting], Splitting] = lambda splits: splits,
    ) -> "DataPlane[BodyT, ReplyT]":
        """The same door with another lessor, bus or splits behind it; no request begins a trace there."""
        rules = DoorRules(
            None, self._keeps_timeouts, splits(self._splits), self._decoders, self._tritons_words
        )
        return DataPlane(lessor(self._lessor), bus or self._bus, self._clock, self.new_id, rules)

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """What a model expects and gives.

        Raises:
            NotFound, NotReady: as ``infer``.
        """
        lease = self._acquire(model, version)
        try:
            return lease.id, lease.servable.signature
        finally:
            lease.release()

    def is_decoupled(self, model: str, version: str = "") -> bool:
        """Gives it any number of responses to a request, and not just one? Unknown models do not.

        Nor do handlers, which may send their one answer in pieces.
        """
        return self._has(model, version, "stream") and not self._has(model, version, "takes_forms")

    def gives_parts(self, model: str, version: str = "") -> bool:
        """Are its responses parts of one answer? Those of unknown models are not."""
        return self._has(model, version, "gives_parts")

    def _has(self, model: str, version: str, attribute: str) -> bool:
        try:
            lease, _ = self._lease(model, version, None)
        except SalverError:
            return False
        try:
            return bool(getattr(lease.servable, attribute, None))
        finally:
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
        """Answer one request; an error becomes the protocol's own form of it.

        Args:
            model, version: Whom it is for; an empty version leaves the choice to the server.
            call: How it reached us; its deadline is tightened by the request's own ``timeout``
                parameter (microseconds, TR-R23), its standing amended by those of
                ``kernel/serving/standing.py``.
        """
        outcome, why, timing, standing = "ok", "", _NO_TIME, call.standing
        rows = size = 0
        served = _NOBODY
        plan = self._begun(model, version, call)
        try:
            lease, refusal = self._lease(model, version, plan)
            try:
                served = lease.id
                if call.is_large:
                    request = await self._decode(codec, body, call, lease.servable.signature)
                else:
                    request = codec.decode(body, lease.servable.signature)
                if refusal or "sequence_id" in request.parameters or (plan and plan.assignment is None):
                    read = functools.partial(self._decode, codec, body, call)
                    moved = await self._moved(lease, refusal, plan, request, call, (model, version), read)
                    lease, request, plan = moved
                    served = lease.id
                servable = lease.servable
                request, deadline, standing = self.amended(request, call, servable)
                rows, size = extent(request, servable.signature)
                response = await servable.infer(request, deadline, sender, standing)
                timing = response.timing
                if plan and response.parameters and has_failed(response):
                    why = "status"
                if (takes_long := getattr(codec, "takes_long", None)) is not None and takes_long(response):
                    reply = await asyncio.to_thread(codec.encode, request, response)
                else:
                    reply = codec.encode(request, response)
                if (logging := getattr(servable, "logging", None)) is not None and logging.takes():
                    key = request.signature or servable.signature.name
                    self._emit(Predicted(request, response, call.api, key, logging.wish))
                if plan and plan.may_want and self._splits.wants(plan, served):
                    self._splits.answered(plan, request, (response,), call, why)
            finally:
                lease.release()
        except Exception as error:
            own = self.own(error, model, call)
            outcome, why = own.code.value, own.why
            reply = codec.fault(own)
            own.__traceback__ = error.__traceback__ = None  # whose frames hold the error: a cycle a refusal
        except BaseException:  # cancelled: the caller went away
            outcome = Code.CANCELLED.value
            raise
        finally:
            self.announce(served, outcome, call, timing, rows, size, why, standing, 0.0, version, plan)
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
        outcome, why, timing, standing = "ok", "", _NO_TIME, call.standing
        rows, size, first, served = 0, 0, 0.0, _NOBODY
        plan = self._begun(model, version, call)
        has_begun, pieces = False, list[InferResponse]()
        reply: ReplyT | None = None
        try:
            lease, refusal = self._lease(model, version, plan)
            try:
                served = lease.id
                request = await self._decode(codec, body, call, lease.servable.signature)
                if refusal or "sequence_id" in request.parameters or (plan and plan.assignment is None):
                    read = functools.partial(self._decode, codec, body, call)
                    moved = await self._moved(lease, refusal, plan, request, call, (model, version), read)
                    lease, request, plan = moved
                    served = lease.id
                servable = lease.servable
                are_parts = getattr(servable, "gives_parts", False)
                request, deadline, standing = self.amended(request, call, servable)
                rows, size = extent(request, servable.signature)
                wanted = plan if plan and plan.may_want and self._splits.wants(plan, served) else None
                seen = Pieces() if wanted else _UNSEEN
                # To ask it whether it is Streaming would take its time.
                stream: _Stream = getattr(servable, "stream", None) or functools.partial(_alone, servable)
                async with aclosing(stream(request, deadline, standing)) as answer:
                    async for response in answer:
                        timing = response.timing
                        why = "status" if plan and response.parameters and has_failed(response) else why
                        first = first or self._clock() - call.arrival
                        if write is None:
                            pieces.append(response)
                            if len(pieces) == 1 or are_parts:
                                continue
                            break
                        if wanted:
                            seen.add(response)
                        if response.error is not None:
                            outcome, why = response.error.code.value, response.error.why or "response"
                        piece = codec.encode(request, response)
                        has_begun = True
                        await write(piece)
                if write is None:
                    reply = codec.encode(request, _whole(pieces, are_parts))
                if wanted:
                    self._splits.answered(wanted, request, pieces if write is None else seen.kept, call, why)
            finally:
                lease.release()
        except Exception as error:
            own = self.own(error, model, call)
            outcome, why = own.code.value, own.why
            reply = codec.fault(own)
            own.__traceback__ = error.__traceback__ = None
            if write is not None and (has_begun or own.is_late or isinstance(own, ModelFailed)):
                fault, reply = reply, None
                with suppress(Cancelled):
                    await write(fault)
        except BaseException:
            outcome = Code.CANCELLED.value
            raise
        finally:
            self.announce(served, outcome, call, timing, rows, size, why, standing, first, version, plan)
        return reply

    def post(
        self,
        codec: Codec[BodyT, ReplyT],
        body: BodyT,
        model: str,
        version: str,
        call: Call,
        tell: Tell[ReplyT],
    ) -> Callable[[], None] | None:
        """As ``stream``, without a task, of a model that calls back.

        Args:
            tell: Called once, perhaps before this returns: with the reply; or, where it comes in pieces, with
                None and what writes them all.

        Returns:
            What gives the request up, if nobody has been told; None = nothing has begun, and ``stream`` is to
            be asked, since it is another kind of model or there is more to say of it.
        """
        if self._begun(model, version, call) is not None:
            self._splits.under_way.end(call)  # it begins again
            return None
        try:
            lease = self._acquire(model, version)
        except SalverError:
            return None
        post = getattr(lease.servable, "post", None)
        if post is None or _has_sequences(lease.servable):  # which may be under way in another version
            lease.release()
            return None
        posted = Posted(self, codec, lease, call, version, tell)
        posted.begin(post, body)
        return posted.give_up

    async def _decode(
        self, codec: Codec[BodyT, ReplyT], body: BodyT, call: Call, signature: Signature
    ) -> InferRequest:
        """The request; others have their turns while a large one is decoded."""
        if self._decoders is None or not call.is_large:
            return codec.decode(body, signature)
        seconds = None if call.deadline is None else call.deadline - self._clock()
        return await self._decoders.decode(codec, body, signature, seconds)

    def _begun(self, model: str, version: str, call: Call) -> Plan | None:
        """A request that samples may make a span, and of a model that may be in a release."""
        if self._samples is not None and not call.traceparent and not call.parent and self._samples():
            call.traceparent = self._new_trace(sampled=True)
        return self._splits.begin(model, version, call)

    def _lease(
        self, model: str, version: str, plan: Plan | None
    ) -> tuple[Lease[Inferring], SalverError | None]:
        """A lease; and what to say to requests that begin something, of a version that is being replaced."""
        if plan is not None:
            for arm in plan.versions:
                try:
                    return self._acquire(plan.split.model, arm), None
                except (NotFound, NotReady):
                    continue
        try:
            return self._acquire(model, version), None
        except SalverError as error:
            lease = self._lessor.other(model, version, _has_sequences)
            if lease is None:
                raise
            return lease, error

    async def _moved(
        self,
        lease: Lease[Inferring],
        refusal: SalverError | None,
        plan: Plan | None,
        request: InferRequest,
        call: Call,
        asked: tuple[str, str],
        decode: Callable[[Signature], Awaitable[InferRequest]],
    ) -> tuple[Lease[Inferring], InferRequest, Plan | None]:
        """The request where it belongs: in the arm of its unit, or where its sequence is under way.

        What goes on with a sequence that began elsewhere is in no release.
        """
        other: Lease[Inferring] | None = None
        is_sequence = "sequence_id" in request.parameters
        try:
            known = None if plan is None else plan.assignment
            # A sequence that says nothing of its caller is a unit; else each of its requests would be one.
            if plan is not None and (known is None or (is_sequence and not known.has_unit)):
                plan = self._splits.settle(plan, call, request)
                if plan.versions[0] != lease.id.version:
                    other = self._lease(*asked, plan)[0]
            if refusal is not None or is_sequence:
                began = self._where_it_began(other or lease, refusal, request, *asked)
                if began is not None:
                    if other is not None:
                        other.release()
                    other, plan = began, None
                    self._splits.under_way.end(call)
            if other is None:
                return lease, request, plan
            request = await decode(other.servable.signature)
        except BaseException:
            if other is not None:
                other.release()
            raise
        lease.release()
        return other, request, plan

    def _where_it_began(
        self,
        lease: Lease[Inferring],
        refusal: SalverError | None,
        request: InferRequest,
        model: str,
        version: str,
    ) -> Lease[Inferring] | None:
        """A lease on the version in which the request's sequence is under way; None = the given one."""

        def knows(servable: Inferring) -> bool:
            sequences = getattr(servable, "sequences", None)
            return sequences is not None and sequences.knows(request)

        if knows(lease.servable):
            return None
        other = self._lessor.other(model, version, knows)
        if other is None and refusal is not None:
            raise refusal
        return other

    def _as_span(self, request: InferRequest, call: Call) -> InferRequest:
        """The request with what those need to know that are asked in its service."""
        if not call.traceparent:
            call.traceparent = self._new_trace(sampled=False)
        self._splits.carry(call, request)
        return msgspec.structs.replace(request, trace=call.traceparent, request_id=call.request_id)

    def _new_trace(self, *, sampled: bool) -> str:
        new = self.new_id
        return w3c.format(w3c.TraceContext(new() + new(), new(), int(sampled)))

    def passed(self, call: Call) -> float:
        """Seconds since a request came."""
        return self._clock() - call.arrival

    def own(self, error: Exception, model: str, call: Call) -> SalverError:
        """What the caller may know of an error; the log has the rest."""
        if isinstance(error, SalverError):
            error.in_tritons_words = self._tritons_words
            if error.code in (Code.INTERNAL, Code.MODEL_FAILED):
                _LOG.warning("%s: %s", call.request_id or model, error, exc_info=error.__cause__)
            return error
        incident = self.new_id()
        _LOG.exception("incident %s: model %r over %s", incident, model, call.protocol, exc_info=error)
        return Internal.incident(incident)

    def amended(
        self, request: InferRequest, call: Call, servable: Inferring
    ) -> tuple[InferRequest, float | None, Standing]:
        """The request as its model wants it; deadline and standing, with what its own parameters say."""
        deadline, standing = call.deadline, call.standing
        if request.parameters:
            if "timeout" in request.parameters:
                sooner = _sooner(deadline, call.arrival, request)
                if self._keeps_timeouts and not getattr(servable, "owns_timeout", False):
                    deadline = sooner
            if not STANDING_PARAMETERS.isdisjoint(request.parameters):
                standing = from_parameters(standing, request.parameters)
        if call.forwarded:
            request = _with_headers(request, call.forwarded)
        if getattr(servable, "asks_others", False):
            request = self._as_span(request, call)
        return request, deadline, standing

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
        """Tell observers that a request has its answer."""
        if self._splits.carried:
            self._splits.carried.pop(call.traceparent, None)
        if plan is not None and self._splits.under_way.end(call):
            plan = None  # the release has counted it
        self._emit(
            Served(
                served.name,
                served.version,
                call.protocol,
                outcome,
                self._clock() - call.arrival,
                timing,
                rows,
                call.request_id,
                call.traceparent,
                size,
                why,
                standing.tenant,
                call.arrival,
                call.parent,
                call.origin,
                first,
                call.api,
                asked,
                None if plan is None else plan.assignment,
                call.unit,
            )
        )


def _has_sequences(servable: Inferring) -> bool:
    return getattr(servable, "sequences", None) is not None


async def _alone(
    servable: Inferring, request: InferRequest, deadline: float | None, standing: Standing
) -> AsyncGenerator[InferResponse, None]:
    """The answer of a model that gives it whole."""
    whole = await servable.infer(request, deadline, None, standing)
    yield msgspec.structs.replace(whole, is_last=True)


def _whole(pieces: Sequence[InferResponse], are_parts: bool) -> InferResponse:
    """The one answer that was asked for."""
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
    """One answer of its pieces: texts are strung together, other tensors appended along axis 0.

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


def _with_headers(request: InferRequest, headers: Mapping[str, Parameter]) -> InferRequest:
    """With forwarded headers as parameters, where its own do not have that name.

    Raises:
        InvalidInput: a header has the name of a parameter that means something to the server (TR-R23).
    """
    for name in headers:
        if name in _RESERVED or name.startswith("triton_"):
            text = f"header '{name}' cannot become a parameter: that name is reserved"
            fix = "Leave it out of the request, or out of the server's header forward pattern."
            raise tritons(InvalidInput(text, fix=fix), f"{text} for Triton usage. {fix}")
    return msgspec.structs.replace(request, parameters={**headers, **request.parameters})


def _sooner(deadline: float | None, arrival: float, request: InferRequest) -> float | None:
    timeout = request.parameters["timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InvalidInput(
            f"parameter 'timeout' must be a whole number of microseconds, not {timeout!r}",
            field="parameters.timeout",
        )
    if timeout == 0:
        return deadline
    own = arrival + timeout / 1e6
    return own if deadline is None else min(own, deadline)
