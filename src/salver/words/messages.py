"""Requests and responses, and what describes them.

These records are passed between all packages. They know no wire, socket, clock or framework.
Times are seconds of one monotonic clock unless a name says otherwise.
"""

import enum
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Final, Literal, Protocol

import msgspec

from salver.words.errors import SalverError
from salver.words.tensor import DataType, Tensor

#: Parameter of a request, tensor or reply (OIP-12).
Parameter = bool | int | float | str
_NONE: Mapping[str, Parameter] = {}
_MOST_SHOWN: Final = 20  # tensors in an error text
#: Platform of a Hugging Face directory, before its task.
HUGGING_FACE: Final = "huggingface_"
#: Platform of a pipeline, which takes raw inputs of any kind.
PIPELINE: Final = "salver_pipeline"


class ModelId(msgspec.Struct, frozen=True, order=True):
    """Name and version of a model."""

    name: str
    version: str

    def __str__(self) -> str:
        """Return ``name:version``."""
        return f"{self.name}:{self.version}"


class Column(msgspec.Struct, frozen=True):
    """Values of a column of a table, which a model takes as an input of its own.

    Attributes:
        kind: What callers send for a value; a date is a text of ISO 8601, in UTC if it has an offset.
        categories: The only values; empty = any of the kind.
        takes_null: Values may be missing: NaN, and :data:`NULL` among texts.
        is_read: The model reads it; else callers may leave it out, and its values do not matter.
    """

    kind: Literal["number", "integer", "boolean", "text", "date"] = "number"
    categories: tuple[str | int | float | bool, ...] = ()
    takes_null: bool = False
    is_read: bool = True


#: A missing text among BYTES; no text in UTF-8 has such a byte.
NULL: Final = b"\xffnull"
#: Name of the signature by which a model of a matrix takes named columns.
COLUMNS: Final = "columns"


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a model's input or output.

    Attributes:
        shape: Extents; -1 = any extent. For a batched model it includes the leading -1 (the batch dimension).
        optional: The input may be omitted.
        labels: Class names by index along the last axis, or empty.
        tensor: Name inside the artefact (``TensorInfo.name`` of a SavedModel), or empty.
        any_rank: The rank is free; the shape is then ``[-1]``.
        column: Values of a column of a table; None = it is not one.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    optional: bool = False
    labels: tuple[str, ...] = ()
    tensor: str = ""
    any_rank: bool = False
    column: Column | None = None


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model.

    Attributes:
        batched: True if axis 0 of every input and output is the batch: rows of different
            requests may be stacked along it and the answers split again.
        platform: The protocol's ``<project>_<format>`` name (OIP-8), information only.
        max_rows: Maximum rows in one run; 0 = no limit.
        name: Key of the signature, for models that may have several (TF-R8).
        method: ``method_name`` of a SavedModel's SignatureDef.
        others: The model's other signatures; these have no ``others``.
        judges_shapes: The model checks shapes itself, for requests that ask for it
            (:attr:`InferRequest.any_shape`).
        is_stateful: A run may affect the answers of later runs.
        takes_forms: The model is a handler (:mod:`salver.words.handlers`): any inputs, one output of bytes.
        converts: Protocols of tensors convert requests for it, to forms or from keyword arguments.
        digest: SHA-256 of all that decides its answers, if it is locked; empty = it is not.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = False
    platform: str = ""
    max_rows: int = 0
    name: str = "serving_default"
    method: str = "tensorflow/serving/predict"
    others: "tuple[Signature, ...]" = ()
    judges_shapes: bool = False
    is_stateful: bool = False
    takes_forms: bool = False
    converts: bool = False
    digest: str = ""

    @property
    def task(self) -> str:
        """Task for which the model takes raw inputs, by its platform; empty = it takes tensors.

        >>> Signature((), (), platform="huggingface_fill-mask").task
        'fill-mask'
        """
        if self.platform == PIPELINE:
            return "pipeline"
        if not self.platform.startswith(HUGGING_FACE):
            return ""
        return self.platform.removeprefix(HUGGING_FACE)

    @property
    def takes_raw(self) -> bool:
        """Whether the model takes raw inputs, for a task or a pipeline, or rows by column name."""
        return bool(self.task) or self.table is not None

    @property
    def table(self) -> "Signature | None":
        """Return the signature that takes a table by its columns, among this and the others; None = none."""
        for each in (self, *self.others):
            if each.inputs and all(spec.column is not None for spec in each.inputs):
                return each
        return None

    def named(self, name: str) -> "Signature | None":
        """Return the signature with that key, this one or one of the others; None = there is none.

        >>> Signature((), (), others=(Signature((), (), name="regress"),)).named("regress").name
        'regress'
        """
        return next((known for known in (self, *self.others) if known.name == name), None)


def described(specs: Iterable[TensorSpec]) -> str:
    """Return tensors as error texts show them.

    >>> described([TensorSpec("x", DataType.FP32, (-1, 4)), TensorSpec("n", DataType.INT64, (1,), True)])
    'x FP32[-1,4], n INT64[1] (optional)'
    """
    specs = list(specs)
    shown = [
        f"{spec.name} {spec.datatype.name}[{','.join(map(str, spec.shape))}]{' (optional)' * spec.optional}"
        for spec in specs[:_MOST_SHOWN]
    ]
    more = len(specs) - _MOST_SHOWN
    return (", ".join(shown) or "nothing") + (f" and {more} more" * (more > 0))


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """Output that the caller requested by name."""

    name: str
    parameters: Mapping[str, Parameter] = _NONE


class InferRequest(msgspec.Struct, frozen=True):
    """Inference request to one model.

    Attributes:
        version: Empty = chosen by the server.
        id: The caller's own id; returned in the reply.
        outputs: Requested outputs in order; empty = all.
        parameters: Free request parameters (OIP-12).
        signature: Key of the signature to use; empty = the model's first.
        any_shape: Let the model check the shapes, if it can (TensorFlow Serving does not compare them with
            those of the SavedModel).
        trace: W3C trace context of this request's span, if its model may call others; else empty.
        request_id: Id of the call, if its model may call others; else empty.
        deadline: The caller's deadline by the server's clock, if its model may know it; None = none.
        is_gone: Returns whether the caller has gone away, if its model may ask; None = unknown.
        came: When it would have come, by the server's clock, if the event loop added nothing; 0 = it adds
            nothing.
        group: Group of the model's instances that answers it; empty = any.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Mapping[str, Parameter] = _NONE
    trace: str = ""
    request_id: str = ""
    deadline: float | None = None
    is_gone: Callable[[], bool] | None = None
    signature: str = ""
    any_shape: bool = False
    came: float = 0.0
    group: str = ""


#: Name of a graph's step, when it began and ended by the engine's clock, of that the seconds in a queue and
#: in the model, and the look-ups of a response cache, of which it had so many.
StepTime = tuple[str, float, float, float, float, int, int]


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Durations of the parts of one request in seconds; with the remainder they add up to its latency.

    Attributes:
        queue: Waiting while every instance was busy.
        formation: Waiting for a batch to fill while an instance was idle.
        inference: Time in the model, without merging and splitting.
        batch_rows: Rows of its batch.
        ahead: Rows that were already waiting on arrival.
        reason: Why its batch closed: ``full``, ``preferred``, ``time``, ``drain``, ``deadline``,
            ``urgent``, ``bulk`` or ``learned``; ``steps`` = an ensemble, which has no batch.
        arrived: When it joined the queue, by the engine's clock; 0 = unknown.
        ended: When its outputs were available, by the same clock.
        split: Splitting the outputs of its batch, the last part before ``ended``.
        cache: For a model with a response cache, whether the answer was in it.
        cache_seconds: Cache lookup and insertion.
        steps: Of a graph, when each of its steps ran.
    """

    queue: float = 0.0
    formation: float = 0.0
    inference: float = 0.0
    batch_rows: int = 0
    ahead: int = 0
    reason: str = ""
    arrived: float = 0.0
    ended: float = 0.0
    split: float = 0.0
    cache: Literal["", "hit", "miss"] = ""
    cache_seconds: float = 0.0
    steps: tuple[StepTime, ...] = ()


class InferResponse(msgspec.Struct, frozen=True):
    """Answer to an :class:`InferRequest`, or one piece of a streamed answer.

    Attributes:
        is_last: The model already knows that no piece follows. Otherwise the end of the stream tells.
        error: Error of a piece, which then has no outputs. Others may follow.
        tokens: Tokens of the prompt and of the answer, in the last piece if the engine counts them.
    """

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Mapping[str, Parameter] = _NONE
    timing: Timing = Timing()
    is_last: bool = False
    error: SalverError | None = None
    tokens: tuple[int, int] | None = None


class Insight(msgspec.Struct, frozen=True, gc=False):
    """Load and measurements of an engine, for operators.

    Attributes:
        load: Arriving rows per second, divided by the capacity of full batches on all instances.
        a: Seconds that each row adds to a run; 0 = unknown yet.
        t0: Fixed seconds of a run.
        reserve: Safety margin in seconds before a promised time.
        rule: Active batching rule (:data:`salver.words.artifacts.Policy`).
        limit: Current limit on waiting requests; 0 = none.
        sequences: Sequences in slots; -1 = the engine has no sequences.
        backlog: Sequences waiting for a slot.
    """

    load: float = 0.0
    a: float = 0.0
    t0: float = 0.0
    reserve: float = 0.0
    rule: str = ""
    limit: int = 0
    sequences: int = -1
    backlog: int = 0


#: Service classes, the best first.
Service = Literal["urgent", "normal", "bulk"]


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Tenant, priority and service class of a request.

    Attributes:
        tenant: Tenants share a model's capacity fairly; empty = the default tenant.
        priority: Level, 1 is the highest; 0 = the model's default.
        service: ``urgent`` (served immediately and alone), ``normal``, or ``bulk`` (large batches that use
            spare capacity).
        granted: Best standing that the caller's key grants; its priority 0 = the model's default at most.
            None = any.
    """

    tenant: str = ""
    priority: int = 0
    service: Service = "normal"
    granted: "Standing | None" = None

    def bounded(self, level: int, default: int, levels: int) -> int:
        """Return a level of a model, or the highest one that is granted if that is lower."""
        if self.granted is None:
            return level
        return max(level, min(self.granted.priority or default, levels))


#: Standing of a request without one.
ANYBODY = Standing()


#: Lag of requests beyond those that a turn of an overloaded event loop lets in. Models with a longer
#: objective take them nevertheless.
NO_PLACE_S: Final = 1.0


class Closable(Protocol):
    """Refusal of which copies are sent until it is closed."""

    def close(self) -> int:
        """Count the copies; return their number."""
        ...


class Alike(Closable, Protocol):
    """Requests that are refused like a first one."""

    def new_id(self) -> str:
        """Return the id of another such request."""
        ...


class LimitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit, and what is left of it.

    Attributes:
        name: For example ``key-requests`` or ``tenant-rows``, as in the field ``RateLimit`` of answers.
        most: Most units in the window.
        window_seconds: Time in which all of them come back; 0 = so many may run at a time.
        resets: Unix seconds at which a quota is renewed; None = it is none.
    """

    name: str
    most: float
    window_seconds: int
    left: float
    resets: float | None = None


class Grant(Protocol):
    """Models that a caller may use, how often, and with which standing.

    Attributes:
        standing: Standing of the request by its headers, within what is granted.
        granted: Best standing that its parameters may ask for; None = any.
        was_refused: Its last request was beyond a limit.
        is_stale: The caller has to be asked for its key again.
        caller: Whose limits they are: grants with the same one are refused alike, whatever the model.
    """

    standing: Standing
    granted: Standing | None
    was_refused: bool
    is_stale: bool
    caller: Hashable

    @property
    def checks(self) -> bool:
        """Whether the model or a limit is left to be checked."""
        ...

    def check(self, model: str) -> None:
        """Raise Forbidden if the caller may not use the model; empty = all models."""
        ...

    def allows(self, model: str) -> bool:
        """Return whether the caller may use the model."""
        ...

    def refusal(self, model: str, *, is_trial: bool = False) -> SalverError | None:
        """Return why a request to run a model is refused now; None = it is accepted.

        Args:
            is_trial: The caller is not told yet, and the refusal is not recorded.
        """
        ...

    def still_refused(self) -> SalverError | None:
        """Return why any request to run a model is refused now, after one :attr:`was_refused`."""
        ...

    def begin(self, model: str) -> "Charge | SalverError | None":
        """Count a request that begins to run a model, unless it is refused; None = it has no limits.

        An error says why it is refused, as :meth:`refusal` does.
        """
        ...


class Charge(Protocol):
    """Charge of a request to run a model to its caller's limits.

    Attributes:
        counts_tokens: Its tokens are counted.
        has_limits: It has to be weighed.
    """

    counts_tokens: bool
    has_limits: bool

    def weigh(self, rows: int, tenant: str) -> bool:
        """Charge the request, which is about to run, to all limits or to none.

        Returns:
            False = it is not charged yet, and ``settle`` has to be awaited first.

        Raises:
            RateLimited: it is beyond one of them.
        """
        ...

    def settle(self) -> Awaitable[None]:
        """Charge the request once it is known what is left for it. Raises RateLimited."""
        ...

    def states(self) -> Iterable[LimitState]:
        """Return the limits and quotas that it was charged to, with what is left of them now."""
        ...

    def add(self, tokens: tuple[int, int] | None) -> None:
        """Charge the tokens of the prompt and the answer so far; None = another piece of it, not counted."""
        ...

    def end(
        self, model: str, rows: int, timing: Timing, received: int, reply: object, is_weighed: bool, /
    ) -> None:
        """Note what has answered, before ``leave``.

        Args:
            model: Empty = no model.
            received: Bytes of the request's body.
            reply: Whole answer; None = there is none, or others count its bytes.
            is_weighed: It has come to ``weigh``, if it had to.
        """
        ...

    def leave(self, *, has_begun: bool = True) -> None:
        """Count the end of the request.

        Args:
            has_begun: Otherwise it is about to begin in another way.
        """
        ...


class Call(msgspec.Struct, gc=False, eq=False):
    """Facts about a call that the transport knows and the codec does not. Compared by identity.

    Attributes:
        protocol: ``oip-http``, ``oip-grpc``, ``tfs-http``, … (a label of the metrics).
        arrival: When its first byte was read.
        deadline: When the caller stops waiting; None = never.
        request_id: The caller's ``x-request-id``, or generated.
        traceparent: W3C trace context of this request's span, or empty.
        standing: Read from headers. Request parameters may change all of it except the tenant.
        forwarded: Headers to pass on as request parameters; None = not configured.
        parent: W3C trace context of the request that caused this one inside the server; empty = a caller sent
            it.
        origin: Id of the caller's own span, where a trace came with the request.
        api: Operation, for a protocol with several (``Predict``, ``Classify``, ``Regress``,
            ``MultiInference``); else empty.
        traits: Header values that splits use, by source (``header:x-user-id``); None = none present.
        unit: Name of the assigned unit, for a model in a release; set by the router.
        is_large: Decoding the body on the event loop could delay other requests.
        lag: Seconds that the event loop adds to its latency; 0 = negligible; :data:`NO_PLACE_S` or more = the
            loop is overloaded and has no place for it.
        alike: Set when it is refused by its head: counts other requests that are refused like it.
        grant: Checks the model's name, where only the body has it, counts the request, and bounds its
            standing; None = the caller may use the model without limits.
        charge: What it costs the caller's limits, while it runs; None = they are not charged.
        received: Bytes of its body, where it has a charge.
    """

    protocol: str
    arrival: float
    deadline: float | None = None
    request_id: str = ""
    traceparent: str = ""
    standing: Standing = ANYBODY
    forwarded: Mapping[str, Parameter] | None = None
    parent: str = ""
    origin: str = ""
    api: str = ""
    traits: Mapping[str, str] | None = None
    unit: str = ""
    is_large: bool = False
    lag: float = 0.0
    alike: Alike | None = None
    grant: Grant | None = None
    charge: Charge | None = None
    received: int = 0

    def may_see(self, model: str) -> bool:
        """Return whether the caller may know of a model, for lists of models."""
        return self.grant is None or self.grant.allows(model)


class State(enum.StrEnum):
    """States of a loaded version (kernel/lifecycle/policy.py holds the transitions)."""

    NEW = "NEW"
    LOADING = "LOADING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADING = "UNLOADING"
    GONE = "GONE"
    FAILED = "FAILED"


class VersionStatus(msgspec.Struct, frozen=True):
    """Status of a version, as listed in the repository index.

    Attributes:
        load_seconds: Duration of loading and warming of a ready version; else 0.
        digest: As in :class:`Signature`.
    """

    id: ModelId
    state: State
    reason: str = ""
    backend: str = ""
    bytes: int = 0
    load_seconds: float = 0.0
    digest: str = ""
