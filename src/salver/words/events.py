"""Events that the control plane and the data plane emit.

Observers run off the request's path. Durations are seconds.
"""

from itertools import accumulate

import msgspec

from salver.words.artifacts import Logging
from salver.words.messages import InferRequest, InferResponse, ModelId, State, Timing
from salver.words.releases import Assignment
from salver.words.tensor import Tensor


class Served(msgspec.Struct, frozen=True, gc=False):
    """A completed request, successful or not.

    Attributes:
        outcome: ``ok``, or the error's code.
        latency: Time from the first byte read to the answer being ready to write.
        rows: Rows of the request.
        size: Bytes of the inputs as arrays.
        why: For a rejected request, the limit that was reached (:data:`salver.words.errors.Refusal`); else
            details that the code lacks (:data:`salver.words.errors.Fault`).
        tenant: Tenant of the request, or empty.
        arrival: When the first byte was read, by the server's monotonic clock.
        parent: W3C trace context of the request that caused this one inside the server; empty = a caller sent
            it.
        origin: Id of the caller's own span; empty = the trace begins here, or there is none.
        first: For a streamed answer, time from the first byte read to the first piece; 0 = not streamed.
        api: Operation requested (:class:`salver.words.messages.Call`).
        asked: Version that the caller named; empty = none.
        assignment: Where the request was sent, for a model in a release; None = not split.
        unit: Unit that was assigned.
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


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Requests that were refused like a first one, in the same turn of the event loop.

    Only observers with a true ``takes_refused`` get these; others get a :class:`Served` of each request.

    Attributes:
        like: Event of each of them, but for its id.
        ids: Their ids.
    """

    like: Served
    ids: list[str]

    def each(self) -> list[Served]:
        """Return the events of the requests."""
        return [msgspec.structs.replace(self.like, request_id=id) for id in self.ids]


class Responded(msgspec.Struct, frozen=True, gc=False):
    """Response of a version in a release that analyses answers; :class:`Served` describes the request.

    Not an event, because observers keep some of their events and outputs may be large.

    Attributes:
        unit: As in :class:`Served`.
        outputs: Of all pieces of the answer, in order; None = too large to keep.
        are_chosen: The caller selected the outputs.
    """

    assignment: Assignment
    unit: str
    outputs: tuple[Tensor, ...] | None
    are_chosen: bool = False


class Shadowed(msgspec.Struct, frozen=True, gc=False):
    """A copy of a caller's request sent to another version; its answer is not returned.

    Attributes:
        version: The canary, whose answer is discarded.
        unit: As in :class:`Served`.
        request_id: Id of the caller's request.
        outcome: ``ok``, or the error's code.
        stable_seconds, seconds: Time in the model, for the caller's answer and for this one.
        agrees: The answers match by the comparison of the split's shadow.
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
    """A completed call at one of TorchServe's ports, of any kind.

    Attributes:
        caller: Address and port.
        verb: HTTP verb, or ``gRPC``.
        target: Path and query; for gRPC, service and method.
        protocol: For example ``HTTP/1.1``.
        status: HTTP status or gRPC code.
        at: Unix time of completion.
        seconds: Duration from the headers on.
    """

    caller: str
    verb: str
    target: str
    protocol: str
    status: int
    at: float
    seconds: float


class WorkerReady(msgspec.Struct, frozen=True):
    """A worker of a handler that is ready.

    Attributes:
        worker: Number of the worker.
        seconds: Time since the start of its process.
    """

    id: ModelId
    worker: int
    seconds: float


class Predicted(msgspec.Struct, frozen=True, gc=False):
    """A request and its answer that are to be recorded.

    Attributes:
        api: Operation requested (:class:`salver.words.messages.Call`).
        signature: Key of the signature that was used.
        wish: Settings of the model's prediction log.
        request_id: Id of the call, as in :class:`Served`.
    """

    request: InferRequest
    response: InferResponse
    api: str
    signature: str
    wish: Logging
    request_id: str = ""


class BatchRan(msgspec.Struct, frozen=True, gc=False):
    """A completed run of a model.

    Attributes:
        requests: Number of requests in the run.
        duration: Time in the model.
        merge: Time to stack the inputs.
        split: Time to split the outputs.
        reason: Why the batch closed, as in :class:`~salver.words.messages.Timing`.
        ok: False if the model raised or its host died.
        padding: Rows added to ``rows`` to pad the batch.
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
    """A completed step of a step-wise model.

    Attributes:
        sequences: Number of sequences in the step.
        waiting: Number of sequences without a slot.
        tokens: Tokens returned to callers.
        prompt_tokens: Prompt tokens processed.
        duration: The model's own time.
        gap: Time from the end of the previous step to the end of this one; 0 after a pause.
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
    """A transition of a version to another state."""

    id: ModelId
    before: State
    after: State
    reason: str = ""


class Replayed(msgspec.Struct, frozen=True):
    """A run of the warm-up records of a SavedModel.

    Attributes:
        path: Path of the SavedModel.
        records: Number of successful runs.
        seconds: Total duration.
        why: Code of the error; empty = none.
    """

    id: ModelId
    path: str
    records: int
    seconds: float
    why: str = ""

    @property
    def ok(self) -> bool:
        """Return whether all records ran successfully."""
        return not self.why


class Lineage(msgspec.Struct, frozen=True):
    """Id in ML Metadata of a version that was loaded."""

    id: ModelId
    uuid: str


Event = (
    Served
    | Shadowed
    | Answered
    | Refused
    | WorkerReady
    | Predicted
    | BatchRan
    | StepRan
    | StateChanged
    | Replayed
    | Lineage
)


def moments(event: Served) -> dict[str, int]:
    """Return the known moments of a request by their names in Triton's traces, in order, in nanoseconds.

    A request that failed, or whose engine tells no times, has only a start and an end.

    >>> from salver.words.messages import Timing
    >>> timing = Timing(queue=1.0, inference=2.0, arrived=10.5, ended=14.5, split=0.5)
    >>> [ns / 1e9 for ns in moments(Served("m", "1", "", "ok", 5.0, timing, arrival=10.0)).values()]
    [10.0, 10.5, 11.5, 12.0, 14.0, 14.5, 15.0]
    """
    timing = event.timing
    known = {"REQUEST_START": event.arrival}
    if timing.ended:
        ran = timing.ended - timing.split
        known |= {
            "QUEUE_START": timing.arrived,
            "COMPUTE_START": timing.arrived + timing.queue + timing.formation,
            "COMPUTE_INPUT_END": ran - timing.inference,
            "COMPUTE_OUTPUT_START": ran,
            "COMPUTE_END": timing.ended,
        }
    known["REQUEST_END"] = event.arrival + event.latency
    in_order = accumulate((round(seconds * 1e9) for seconds in known.values()), max)  # sums may be off by one
    return dict(zip(known, in_order, strict=True))
