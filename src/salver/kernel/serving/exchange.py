"""Life of one request, for every protocol and every way of delivering the answer.

An exchange leases a loaded version, decodes and amends the request, and ends exactly once: it releases the
lease and emits an event. In between, ``infer`` and ``stream`` (``dataplane.py``) or callbacks
(``callbacks.py``) deliver the answer. Codecs know the protocol, and engines the queue.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.leases import until_resident
from salver.kernel.serving.ports import Codec, Inferring, Lease, Lessor
from salver.kernel.serving.stages import Change, Passage, Stage, VersionChoice
from salver.kernel.serving.standing import PARAMETERS as STANDING_PARAMETERS
from salver.kernel.serving.standing import from_parameters
from salver.lazy import lazy_imports
from salver.words.errors import (
    Code,
    Internal,
    InvalidInput,
    NotFound,
    NotReady,
    NotResident,
    SalverError,
    tritons,
)
from salver.words.events import Event, Predicted, Served
from salver.words.handlers import status_of
from salver.words.messages import (
    NO_PLACE_S,
    Call,
    InferRequest,
    InferResponse,
    ModelId,
    Parameter,
    Signature,
    Timing,
)

with lazy_imports():
    from salver.words import traceparent as w3c


_LOG = logging.getLogger("salver.dataplane")
NO_TIME = Timing()
#: Rows and bytes of a request that is not decoded; told from others by identity.
_NO_EXTENT = (0, 0)
_UNKNOWN = ModelId("", "")  # names of unknown models never become labels
#: Parameters that a header must not become (TR-R23).
_RESERVED = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)

BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


class RequestPath(msgspec.Struct, frozen=True, eq=False):
    """Settings and collaborators that the exchanges of one data plane share.

    Attributes:
        lessor: Source of leases on loaded versions.
        emit: Receives the event of each answer.
        clock: Monotonic seconds, the same as the engines'.
        new_id: Makes incident ids for defects, and ids of spans: 16 hexadecimal digits.
        samples: Chooses which requests without a trace begin one; None = none.
        keeps_timeouts: A request's ``timeout`` is a deadline unless its model has a queue policy.
        stage: Stage of a feature on the path; None = none.
        decoders: Decode large bodies in other processes; None = decode all in place.
        tritons_words: Use Triton's error texts.
    """

    lessor: Lessor[Inferring]
    emit: Callable[[Event], None]
    clock: Callable[[], float]
    new_id: Callable[[], str]
    samples: Callable[[], bool] | None = None
    keeps_timeouts: bool = True
    stage: Stage | None = None
    decoders: Decoders | None = None
    tritons_words: bool = False

    def new_trace(self, *, sampled: bool) -> str:
        """Return a trace context that begins a trace."""
        new = self.new_id
        return w3c.format(w3c.TraceContext(new() + new(), new(), int(sampled)))


class Exchange(Generic[BodyT, ReplyT]):
    """One request with its answer.

    Args:
        version: Version that the caller named; empty = the server's choice.
        call: Context of the request. The request's ``timeout`` parameter (microseconds, TR-R23) may shorten
            its deadline, and the parameters of ``kernel/serving/standing.py`` amend its standing.

    Attributes:
        passage: Passage through the stage; None = the stage has no part in the request.
        lease, servable: Version that answers; set by ``begin`` or ``use``.
        request, deadline: Request and deadline for the model; set by ``begin`` or ``accept``.
        timing: Timing of the model's last response.
        first: Seconds from the request's first byte to the first piece of a streamed answer; 0 = none yet.
    """

    __slots__ = (
        "_extent", "_path", "call", "codec", "deadline", "first", "lease", "model", "passage", "request",
        "servable", "standing", "timing", "version",
    )  # fmt: skip

    deadline: float | None
    request: InferRequest
    servable: Inferring

    def __init__(
        self, path: RequestPath, codec: Codec[BodyT, ReplyT], model: str, version: str, call: Call
    ) -> None:
        self._path = path
        self.codec = codec
        self.model = model
        self.version = version
        self.call = call
        self.lease: Lease[Inferring] | None = None
        self.standing = call.standing
        self.timing = NO_TIME
        self.first = 0.0
        self._extent = _NO_EXTENT
        if path.samples is not None and not call.traceparent and not call.parent and path.samples():
            call.traceparent = path.new_trace(sampled=True)
        stage = path.stage
        self.passage: Passage | None = None if stage is None else stage.begin(model, version, call)

    # -- the request ---------------------------------------------------------------------------

    def begin(self, body: BodyT) -> Awaitable[None] | None:
        """Lease a version and decode the request for it.

        Returns:
            Remaining work to await: decoding a large body elsewhere, or moving to the version where the
                request
            belongs. None = done, so that most requests need no task switch.

        Raises:
            SalverError: no version can answer, or the request is invalid for it.
        """
        refusal, passage = None, self.passage
        if passage is None:  # written out, as most requests need no more (benchmarks/before_after.py)
            try:
                lease = self._path.lessor.acquire(self.model, self.version)
            except SalverError as error:
                if isinstance(error, NotResident):
                    return self._begin_later(body, error)
                lease, refusal = self._replaced(error), error
        else:
            try:
                lease, refusal = self.leased(passage)
            except NotResident as error:
                return self._begin_later(body, error)
        self.lease = lease
        self.servable = servable = lease.servable
        if (foresee := servable.capabilities.foresee) is not None:
            foresee(self.call)
        if self.call.is_large:
            return self._finish(body, None, refusal)
        request = self.codec.decode(body, servable.signature)
        if (
            refusal is not None
            or "sequence_id" in request.parameters
            or (passage is not None and passage.is_open)
        ):
            return self._finish(body, request, refusal)
        return None if self.accept(request) else self._settle()

    async def _begin_later(self, body: BodyT, absent: NotResident) -> None:
        """Begin when the version is in memory. Raises DeadlineExceeded, or why it does not get there."""
        await until_resident(absent, self.call.deadline, self._path.clock)
        rest = self.begin(body)
        if rest is not None:
            await rest

    async def _settle(self) -> None:
        """Wait until it is known that the caller has enough left for the request. Raises RateLimited."""
        if self.call.charge is not None:
            await self.call.charge.settle()

    async def _finish(self, body: BodyT, request: InferRequest | None, refusal: SalverError | None) -> None:
        if request is None:
            request = await self._decode(body, self.servable.signature)
        passage = self.passage
        if (
            refusal is not None
            or "sequence_id" in request.parameters
            or (passage is not None and passage.is_open)
        ):
            request = await self._moved(body, request, refusal)
        is_charged = self.accept(request)
        if self.passage is not None and self.passage.change is not None:
            self._amend(self.passage.change)
        if not is_charged:
            await self._settle()

    def _amend(self, change: Change) -> None:
        """Change the accepted request, but for its model and version."""
        if change.timeout_s:
            end = self.call.arrival + change.timeout_s
            self.deadline = end if self.deadline is None else min(self.deadline, end)
        said = self.standing
        self.standing = msgspec.structs.replace(
            said, priority=change.priority or said.priority, service=change.service or said.service
        )
        if change.group:
            self.request = msgspec.structs.replace(self.request, group=change.group)

    def accept(self, request: InferRequest) -> bool:
        """Accept the decoded request, amended by its parameters and its call.

        Returns:
            False = it is not known yet whether its caller has enough left for it.

        Raises:
            RateLimited: its rows are beyond a limit of its caller.
        """
        call, servable = self.call, self.servable
        self.deadline = call.deadline
        if parameters := request.parameters:
            if "timeout" in parameters:
                sooner = _sooner(call.deadline, call.arrival, parameters["timeout"])
                if self._path.keeps_timeouts and not servable.capabilities.owns_timeout:
                    self.deadline = sooner
            if not STANDING_PARAMETERS.isdisjoint(parameters):
                granted = None if call.grant is None else call.grant.granted
                self.standing = from_parameters(self.standing, parameters, granted)
        if call.forwarded:
            request = _with_headers(request, call.forwarded)
        if call.lag and (call.lag < NO_PLACE_S or call.is_large):
            request = msgspec.structs.replace(request, came=self._path.clock() - call.lag)
        if servable.capabilities.asks_others:
            request = self._as_span(request)
        self.request = request
        self._extent = extent(request, servable.signature)
        charge = call.charge
        if charge is None or not charge.has_limits:
            return True
        return charge.weigh(self._extent[0], self.standing.tenant)

    def _as_span(self, request: InferRequest) -> InferRequest:
        """Return the request with the trace and id that calls of its model to other models need."""
        path, call = self._path, self.call
        if not call.traceparent:
            call.traceparent = path.new_trace(sampled=False)
        if path.stage is not None:
            path.stage.carry(call, request)
        return msgspec.structs.replace(request, trace=call.traceparent, request_id=call.request_id)

    async def _decode(self, body: BodyT, signature: Signature) -> InferRequest:
        """Decode the body without blocking the event loop on a large one."""
        path, call = self._path, self.call
        if path.decoders is None or not call.is_large:
            return self.codec.decode(body, signature)
        seconds = None
        if call.deadline is not None:
            seconds = call.deadline - path.clock()
        return await path.decoders.decode(self.codec, body, signature, seconds, self._delay)

    def _delay(self, seconds: float) -> None:
        """Note that other bodies are decoded first; refuse the request if it can only be late then."""
        self.call.lag += seconds
        foresee = self.servable.capabilities.foresee
        if foresee is not None:
            foresee(self.call)

    # -- the version that answers --------------------------------------------------------------

    def use(self, lease: Lease[Inferring]) -> None:
        """Use the leased version; the exchange releases the lease."""
        self.lease = lease
        self.servable = lease.servable

    def leased(self, choice: VersionChoice) -> tuple[Lease[Inferring], SalverError | None]:
        """Lease a version that a stage has chosen, or else the one that the caller named.

        Returns:
            The lease, and the error for requests that begin a sequence, if the version is being replaced.

        Raises:
            SalverError: no version can answer, or the stage refuses the request.
        """
        lessor = self._path.lessor
        if (change := choice.change) is not None:
            if change.refusal is not None:
                raise change.refusal()
            self.model, self.version = change.model, change.version
        for version in choice.versions:
            try:
                return lessor.acquire(choice.model, version), None
            except NotResident:
                raise
            except (NotFound, NotReady):
                continue
        try:
            return lessor.acquire(self.model, self.version), None
        except NotResident:
            raise
        except SalverError as error:
            return self._replaced(error), error

    def _replaced(self, error: SalverError) -> Lease[Inferring]:
        """Lease a version that is being replaced but still answers its active sequences."""
        lease = self._path.lessor.other(self.model, self.version, has_sequences)
        if lease is None:
            raise error
        return lease

    async def _moved(self, body: BodyT, request: InferRequest, refusal: SalverError | None) -> InferRequest:
        """Lease the version where the request belongs; return the request decoded for it.

        That is the arm of its unit, or the version of its active sequence. A request that continues a
        sequence begun elsewhere takes part in no release.
        """
        lease, passage = self.lease, self.passage
        assert lease is not None
        other: Lease[Inferring] | None = None
        try:
            if passage is not None:
                passage = passage.settled(request)
                if passage is not self.passage:
                    self.passage = passage
                    try:
                        other = self.leased(passage)[0]
                    except NotResident as absent:
                        await until_resident(absent, self.call.deadline, self._path.clock)
                        other = self.leased(passage)[0]
                    if other.id == lease.id:
                        other.release()
                        other = None
            if refusal is not None or "sequence_id" in request.parameters:
                began = self._where_it_began((other or lease).servable, request, refusal)
                if began is not None:
                    if other is not None:
                        other.release()
                    if passage is not None:
                        passage.end()
                    other, passage = began, None
            if other is not None:
                request = await self._decode(body, other.servable.signature)
        except BaseException:
            if other is not None:
                other.release()
            raise
        self.passage = passage
        if other is not None:
            lease.release()
            self.use(other)
        return request

    def _where_it_began(
        self, servable: Inferring, request: InferRequest, refusal: SalverError | None
    ) -> Lease[Inferring] | None:
        """Return a lease on the version with the request's sequence; None = the given version has it."""

        def knows(servable: Inferring) -> bool:
            sequences = servable.capabilities.sequences
            return sequences is not None and sequences.knows(request)

        if knows(servable):
            return None
        other = self._path.lessor.other(self.model, self.version, knows)
        if other is None and refusal is not None:
            raise refusal
        return other

    # -- the answer ----------------------------------------------------------------------------

    def passed(self) -> float:
        """Return the seconds since the request's first byte."""
        return self._path.clock() - self.call.arrival

    def is_wanted(self) -> bool:
        """Return whether the stage wants the answer of this version."""
        return self.passage is not None and self.lease is not None and self.passage.wants(self.lease.id)

    def count_tokens(self, response: InferResponse) -> None:
        """Charge the tokens of a response to its caller."""
        charge = self.call.charge
        if charge is not None and charge.counts_tokens:
            charge.add(response.tokens)

    def record(self, response: InferResponse) -> None:
        """Log the request with its answer, if the model's recording chooses it."""
        servable = self.servable
        recording = servable.capabilities.recording
        if recording is not None and recording.takes():
            key = self.request.signature or servable.signature.name
            call = self.call
            self._path.emit(Predicted(self.request, response, call.api, key, recording.wish, call.request_id))

    # -- the end -------------------------------------------------------------------------------

    def fail(self, error: Exception) -> ReplyT:
        """End with an error; return it in the protocol's form."""
        reply = self.refuse(self.known(error))
        error.__traceback__ = None
        return reply

    def refuse(self, error: SalverError) -> ReplyT:
        """End with an error from :meth:`known`; return it in the protocol's form."""
        reply = self.codec.fault(error)
        error.__traceback__ = None  # its frames hold the error: each refusal would leave a cycle
        self.end(error.code.value, error.why, reply)
        return reply

    def known(self, error: Exception) -> SalverError:
        """Return an error that the caller may see; an unexpected one is logged with an incident id."""
        path, call = self._path, self.call
        if isinstance(error, SalverError):
            error.in_tritons_words = path.tritons_words
            if error.code in (Code.INTERNAL, Code.MODEL_FAILED):
                _LOG.warning("%s: %s", call.request_id or self.model, error, exc_info=error.__cause__)
            return error
        incident = path.new_id()
        _LOG.exception("incident %s: model %r over %s", incident, self.model, call.protocol, exc_info=error)
        return Internal.incident(incident)

    def end(self, outcome: str = "ok", why: str = "", reply: ReplyT | None = None) -> None:
        """Release the version and emit the event of the answer. Called once.

        Args:
            outcome: ``ok``, or the error's code.
            why: See :class:`~salver.words.events.Served`.
            reply: Whole answer, where there is one.
        """
        path, call, lease = self._path, self.call, self.lease
        if lease is None:
            served = _UNKNOWN
        else:
            served = lease.id
            lease.release()
        if path.stage is not None:
            path.stage.forget(call)
        rows, size = self._extent
        if call.charge is not None:
            is_weighed = self._extent is not _NO_EXTENT
            call.charge.end(served.name, rows, self.timing, call.received, reply, is_weighed)
        path.emit(
            Served(
                served.name,
                served.version,
                call.protocol,
                outcome,
                path.clock() - call.arrival,
                self.timing,
                rows,
                call.request_id,
                call.traceparent,
                size,
                why,
                self.standing.tenant,
                call.arrival,
                call.parent,
                call.origin,
                self.first,
                call.api,
                self.version,
                None if self.passage is None else self.passage.end(),
                call.unit,
            )
        )


def has_sequences(servable: Inferring) -> bool:
    """Return whether the servable may have active sequences."""
    return servable.capabilities.sequences is not None


def why_failed(response: InferResponse) -> str:
    """Return ``status`` for a handler's response that reports a failure, which releases count."""
    has_failed = response.parameters and status_of(response.parameters) >= 500
    return "status" if has_failed else ""


def extent(request: InferRequest, signature: Signature) -> tuple[int, int]:
    """Return the rows of the first input (1 without a batch dimension) and the bytes of all inputs."""
    inputs, is_batched = request.inputs, signature.batched
    if request.signature:
        is_batched = (signature.named(request.signature) or signature).batched
    if not inputs:
        return int(not is_batched), 0
    first, rows = inputs[0].array, 1
    if is_batched:
        rows = len(first) if first.ndim else 0
    if len(inputs) == 1:
        return rows, first.nbytes
    return rows, sum(tensor.array.nbytes for tensor in inputs)


def _with_headers(request: InferRequest, headers: Mapping[str, Parameter]) -> InferRequest:
    """Return the request with forwarded headers as parameters, unless it has a parameter of that name.

    Raises:
        InvalidInput: a header has the name of a reserved parameter (TR-R23).
    """
    for name in headers:
        if name in _RESERVED or name.startswith("triton_"):
            text = f"header '{name}' cannot become a parameter: that name is reserved"
            fix = "Leave it out of the request, or out of the server's header forward pattern."
            raise tritons(InvalidInput(text, fix=fix), f"{text} for Triton usage. {fix}")
    return msgspec.structs.replace(request, parameters={**headers, **request.parameters})


def _sooner(deadline: float | None, arrival: float, timeout: Parameter) -> float | None:
    """Return the earlier of a deadline and the end of a ``timeout`` in microseconds; 0 = no timeout."""
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InvalidInput(
            f"parameter 'timeout' must be a whole number of microseconds, not {timeout!r}",
            field="parameters.timeout",
        )
    if timeout == 0:
        return deadline
    own = arrival + timeout / 1e6
    return own if deadline is None else min(own, deadline)
