"""What happened? The facts that planes announce and observers count.

Observers run off the request's path. Durations are seconds.
"""

import msgspec

from salver.words.artifacts import Logging
from salver.words.messages import InferRequest, InferResponse, ModelId, State, Timing
from salver.words.releases import Assignment
from salver.words.tensor import Tensor


class Served(msgspec.Struct, frozen=True, gc=False):
    """One request has its answer, good or bad.

    Attributes:
        outcome: ``ok``, or the error's code.
        latency: From the first byte read to the answer being ready to write.
        rows: Rows that the request brought.
        size: Bytes of its inputs as arrays.
        why: Of a request that was refused, which bound it met (:data:`salver.words.errors.Refusal`); else
            what its
            code does not tell (:data:`salver.words.errors.Fault`).
        tenant: For whom it was, or empty.
        arrival: When its first byte was read, by the server's monotonic clock.
        parent: W3C trace context of the request in whose service the server asked; empty = a caller did.
        origin: Id of the caller's own span; empty = the trace begins with this request, or with none.
        first: Of an answer in pieces, from the first byte read to its first piece; 0 = there is none.
        api: What was asked of the model (:class:`salver.words.messages.Call`).
        asked: The version that the caller named; empty = none.
        assignment: Where the request was sent, of a model in a release; None = it is not split.
        unit: Who is assigned there.
    """

    model: str
    version: str
    protocol: str
    outcome: str
    latency: float
    timing: Timing
    rows: int = 0
    request_id: str = ""
    traceparent: str = ""
    size: int = 0
    why: str = ""
    tenant: str = ""
    arrival: float = 0.0
    parent: str = ""
    origin: str = ""
    first: float = 0.0
    api: str = ""
    asked: str = ""
    assignment: Assignment | None = None
    unit: str = ""


class Responded(msgspec.Struct, frozen=True, gc=False):
    """What a version answered, in a release that wants to know; :class:`Served` tells of the request. It is
    no event, as those who count requests keep some of their events, and outputs may be large.

    Attributes:
        unit: As in :class:`Served`.
        outputs: Of all pieces of the answer, in their order; None = they were too large to be kept.
        are_chosen: The caller has said which outputs it wants.
    """

    assignment: Assignment
    unit: str
    outputs: tuple[Tensor, ...] | None
    are_chosen: bool = False


class Shadowed(msgspec.Struct, frozen=True, gc=False):
    """A version was asked what another one was asked by a caller, who does not know; no request was served.

    Attributes:
        version: The canary; nobody got its answer.
        unit: As in :class:`Served`.
        request_id: Of the caller's request.
        outcome: ``ok``, or the error's code.
        stable_seconds, seconds: The models' own time, of the answer that the caller got and of this one.
        agrees: The answers are alike, as the split's shadow has it.
        distance: See :class:`~salver.features.releases.experiments.compare.Comparison`.
    """

    model: str
    version: str
    release: str
    unit: str
    request_id: str
    outcome: str
    stable_seconds: float
    seconds: float
    agrees: bool
    distance: float


class Answered(msgspec.Struct, frozen=True, gc=False):
    """A call at a port of TorchServe's has its answer, whatever it was about.

    Attributes:
        caller: Address and port.
        verb: ``gRPC`` for such calls.
        target: Path and query; of gRPC service and method.
        protocol: As ``HTTP/1.1``.
        status: Of HTTP, or gRPC's code.
        at: Unix time of the end.
        seconds: From its headers on.
    """

    caller: str
    verb: str
    target: str
    protocol: str
    status: int
    at: float
    seconds: float


class WorkerReady(msgspec.Struct, frozen=True):
    """A worker of a handler can run.

    Attributes:
        worker: Its number.
        seconds: From the start of its process.
    """

    id: ModelId
    worker: int
    seconds: float


class Predicted(msgspec.Struct, frozen=True, gc=False):
    """A request that is to be written down, and its answer.

    Attributes:
        api: What was asked of the model (:class:`salver.words.messages.Call`).
        signature: Key of the signature by which it was asked.
        wish: How its model's requests are written down.
    """

    request: InferRequest
    response: InferResponse
    api: str
    signature: str
    wish: Logging


class BatchRan(msgspec.Struct, frozen=True, gc=False):
    """One run of a model is over.

    Attributes:
        requests: Requests that shared it.
        duration: The model's own time.
        merge: Time to stack the inputs.
        split: Time to cut the outputs apart.
        reason: Why the batch closed, as in :class:`~salver.words.messages.Timing`.
        ok: False if the model raised or its host died.
        padding: Rows beside ``rows`` that filled the batch up.
    """

    model: str
    version: str
    rows: int
    requests: int
    duration: float
    merge: float
    split: float
    reason: str
    ok: bool = True
    padding: int = 0


class StepRan(msgspec.Struct, frozen=True, gc=False):
    """One step of a step-wise model is over.

    Attributes:
        sequences: Sequences that the step carried on.
        waiting: Sequences without a slot.
        tokens: Tokens that it gave to callers.
        prompt_tokens: Prompt tokens that it read.
        duration: The model's own time.
        gap: From the end of the step before to the end of this one; 0 after a pause.
    """

    model: str
    version: str
    sequences: int
    waiting: int
    tokens: int
    prompt_tokens: int
    duration: float
    gap: float
    ok: bool = True


class StateChanged(msgspec.Struct, frozen=True):
    """A version moved from one state to the next."""

    id: ModelId
    before: State
    after: State
    reason: str = ""


class Replayed(msgspec.Struct, frozen=True):
    """The warm-up records of a SavedModel were run.

    Attributes:
        path: Of the SavedModel.
        records: Runs of records that went well.
        seconds: All of them together.
        why: The error's code; empty = none failed.
    """

    id: ModelId
    path: str
    records: int
    seconds: float
    why: str = ""

    @property
    def ok(self) -> bool:
        """All have run."""
        return not self.why


class Lineage(msgspec.Struct, frozen=True):
    """A version that was loaded has an id in ML Metadata."""

    id: ModelId
    uuid: str


Event = (
    Served
    | Shadowed
    | Answered
    | WorkerReady
    | Predicted
    | BatchRan
    | StepRan
    | StateChanged
    | Replayed
    | Lineage
)
