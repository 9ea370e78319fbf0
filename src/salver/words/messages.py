"""What is asked of a model, and what does it answer?

The records that every room passes on. They know no wire, socket, clock or framework.
Times are seconds of one monotonic clock unless a name says otherwise.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from salver.words.errors import SalverError
from salver.words.tensor import DataType, Tensor

#: A request, tensor or reply parameter (OIP-12).
Parameter = bool | int | float | str
_NONE: Mapping[str, Parameter] = {}


class ModelId(msgspec.Struct, frozen=True, order=True):
    """One version of one model."""

    name: str
    version: str

    def __str__(self) -> str:
        """``name:version``, the usual tag."""
        return f"{self.name}:{self.version}"


class TensorSpec(msgspec.Struct, frozen=True):
    """What a model expects or gives under one name.

    Attributes:
        shape: Extents with -1 where any extent is fine. For a batched model the
            leading -1 (the batch dimension) is part of it.
        optional: An input that may be left out.
        labels: Class names by index along the last axis, or empty.
        tensor: What the artefact itself calls it (``TensorInfo.name`` of a SavedModel), or empty.
        any_rank: Its rank is free, and the shape is ``[-1]``, whatever the tensors' will be.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    optional: bool = False
    labels: tuple[str, ...] = ()
    tensor: str = ""
    any_rank: bool = False


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model.

    Attributes:
        batched: True if axis 0 of every input and output is the batch: rows of different
            requests may be stacked along it and the answers cut apart again.
        platform: The protocol's ``<project>_<format>`` name (OIP-8), information only.
        max_rows: Most rows that the model takes in one run; 0 = as many as one likes.
        name: Its key, of a model that may have several (TF-R8).
        method: What a caller does by it (``method_name`` of a SavedModel's SignatureDef).
        others: The model's other signatures, which have none themselves.
        judges_shapes: The model says itself which shapes it takes, to those who ask for that
            (:attr:`InferRequest.any_shape`).
        is_stateful: A run may change what later ones answer.
        takes_forms: It is a handler (:mod:`salver.words.handlers`): any inputs, and one output of bytes.
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

    def named(self, name: str) -> "Signature | None":
        """The one of that key: this one or one of the others; None = there is none.

        >>> Signature((), (), others=(Signature((), (), name="regress"),)).named("regress").name
        'regress'
        """
        return next((known for known in (self, *self.others) if known.name == name), None)


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """One output that the caller asked for by name."""

    name: str
    parameters: Mapping[str, Parameter] = _NONE


class InferRequest(msgspec.Struct, frozen=True):
    """One question to one model.

    Attributes:
        version: Empty when the caller leaves the choice to the server.
        id: The caller's own mark; comes back in the reply.
        outputs: The wanted outputs in order; empty means all.
        parameters: Free request parameters (OIP-12).
        signature: Key of the signature that it asks by; empty = the model's first.
        any_shape: Shapes are the model's to judge, if it can (TensorFlow Serving compares none with those
            that a SavedModel tells).
        trace: W3C trace context of the span that it is, where its model may ask others; else empty.
        request_id: Of the call that it came with, where its model may ask others; else empty.
        deadline: Until when its caller waits, by the server's clock, where its model may know; None = never.
        is_gone: Says whether its caller has gone meanwhile, where its model may ask; None = nobody knows.
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


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Where one request's time went, in seconds; with "the rest" they add up to its latency.

    Attributes:
        queue: Waiting because every instance was busy.
        formation: Waiting, with an instance idle, for a batch to fill.
        inference: The model's own time, merging and splitting excluded.
        batch_rows: Rows of the batch in which it ran.
        ahead: Rows that waited already when it came.
        reason: Why its batch closed: ``full``, ``preferred``, ``time``, ``drain``, ``deadline``,
            ``urgent``, ``bulk`` or ``learned``; ``steps`` = an ensemble's, which has none.
        arrived: When it began to wait, by the clock of the engine; 0 = not known.
        ended: When its outputs were there, by the same clock.
        split: Cutting the outputs of its batch apart, the last thing before that.
        cache: Of a model whose answers are kept: was this one there?
        cache_seconds: Looking for it, and keeping it.
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


class InferResponse(msgspec.Struct, frozen=True):
    """The answer to one :class:`InferRequest`, or one of the pieces of an answer that comes in pieces.

    Attributes:
        is_last: No piece follows, as the model knows already. The end of the pieces says the same later.
        error: Of a piece that went wrong, and has no outputs. Others may follow.
        tokens: Of the prompt and of the answer, in the last piece of an engine that counts them.
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
    """What an engine knows of its own model and load, for its operators.

    Attributes:
        load: Rows that come per second, over those that full batches on all instances allow.
        a: Seconds that a row adds to a run; 0 = not known yet.
        t0: Seconds of a run whatever its rows.
        reserve: Seconds that are kept free before what is promised.
        rule: In force now (:data:`salver.words.artifacts.Policy`).
        limit: Requests that may wait now; 0 = no such limit.
        sequences: Sequences in slots; -1 = it has none.
        backlog: Sequences that wait for a slot.
    """

    load: float = 0.0
    a: float = 0.0
    t0: float = 0.0
    reserve: float = 0.0
    rule: str = ""
    limit: int = 0
    sequences: int = -1
    backlog: int = 0


class Standing(msgspec.Struct, frozen=True, gc=False):
    """For whom a request is and how it competes with others for its model.

    Attributes:
        tenant: Tenants share a model's capacity fairly; empty = the common one.
        priority: Level, 1 being the highest; 0 = the model's default level.
        service: ``urgent`` (served at once and alone), ``normal``, or ``bulk`` (in large batches,
            with capacity that nobody else wants).
    """

    tenant: str = ""
    priority: int = 0
    service: Literal["urgent", "normal", "bulk"] = "normal"


#: Of a request that says nothing about itself.
ANYBODY = Standing()


class Call(msgspec.Struct, gc=False, eq=False):
    """How a request reached us: what a transport knows and a codec does not. Each is itself alone.

    Attributes:
        protocol: ``oip-http``, ``oip-grpc``, ``tfs-http``, … (a label of the metrics).
        arrival: When its first byte was read.
        deadline: When the caller stops waiting; None for never.
        request_id: Ours, or the caller's ``x-request-id``.
        traceparent: W3C trace context of the span that this request is, or empty.
        standing: From the transport's headers. The request's own parameters may change it, but for
            the tenant.
        forwarded: Headers that the owner wants to have as parameters of the request; None = no such wish.
        parent: W3C trace context of the request in whose service the server asks this; empty = a caller does.
        origin: Id of the caller's own span, where a trace came with the request.
        api: What is asked of the model, in the word of a protocol that has several (``Predict``,
            ``Classify``, ``Regress``, ``MultiInference``); else empty.
        traits: What splits want to know of its headers, by source (``header:x-user-id``); None = none
            of it came.
        unit: Name of who is assigned, of a model in a release, as the router has found it.
        is_large: Decoding its body on the event loop may keep others waiting.
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


class State(enum.StrEnum):
    """The life of one loaded version (kernel/lifecycle/states.py holds the moves)."""

    NEW = "NEW"
    LOADING = "LOADING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADING = "UNLOADING"
    GONE = "GONE"
    FAILED = "FAILED"


class VersionStatus(msgspec.Struct, frozen=True):
    """What the index tells of one version.

    Attributes:
        load_seconds: Loading and warming, of a version that is up; else 0.
    """

    id: ModelId
    state: State
    reason: str = ""
    backend: str = ""
    bytes: int = 0
    load_seconds: float = 0.0
