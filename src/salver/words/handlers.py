"""Records about handlers: programs with named bytes as input, such as TorchServe's models.

A *handler* is run by *workers*, each a host process with the whole model. Its input is a *form*: named parts,
each with a content type, and the caller's headers. A form travels as an :class:`InferRequest` and a
reply as outputs and parameters, so that engines and host processes carry them like any other. These records
know no wire, no process and no framework.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from salver.words.messages import InferRequest, Parameter, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor

#: Format of a handler's archive, and platform of its signature.
FORMAT: Final = "torchserve"
#: Output that holds the bytes of a reply.
BODY: Final = "body"
#: Signature of every handler: any parts in, bytes out.
SIGNATURE: Final = Signature(
    (), (TensorSpec(BODY, DataType.UINT8, (-1,)),), platform="torchserve_mar", takes_forms=True, converts=True
)
#: Parameters of requests and responses; callers cannot send parameters with these names.
_FORM: Final = "\0form"
_REPLY: Final = "\0reply"
_ALONE: Final = "\0alone"
#: Maximum number of workers of a version; each is a process.
MOST_WORKERS: Final = 1024
#: Parameters of requests in a sequence, as Triton's callers name them.
SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Worker settings of a handler.

    Attributes:
        least, most: Minimum and maximum number of workers; ``least`` are started, more only on request.
        batch_size: Maximum requests in a run; 0 counts as 1.
        max_batch_delay_ms: Maximum time that the first request of a batch waits for others.
        response_timeout_s: A run that takes longer counts as hanging, and its worker is restarted.
        startup_timeout_s: Maximum time for a worker to become ready; 0 = no worker can start, as in
            TorchServe.
        max_retry_s: A worker that keeps failing is restarted for this long; then the model is unhealthy.
        client_timeout_ms: Requests that have waited this long are not run; 0 = no limit.
        queue: Maximum number of waiting requests, in addition to running ones.
        needs_ticket: Reject requests immediately while no worker is idle.
        is_stateful: Requests of one sequence go to one worker, in their order.
        is_continuous: Refill a running batch between steps (continuous batching).
        sequence_idle_ms: A sequence without requests for this long ends; 0 = never.
        sequence_timeout_ms: A sequence ends after this time in any case; 0 = never.
        max_sequences: Maximum active sequences over all workers; 0 counts as 1.
        sequence_queue: Maximum number of waiting requests of one sequence; 0 counts as 1.
        device: ``cpu`` or ``gpu``; empty = a GPU if there is one (:func:`on_machine`).
        device_ids: GPUs that the workers use in turn; empty = all.
        parallel_type, parallel_level: Parallelism over several GPUs; only reported.
        is_async: The handler answers asynchronously (``asyncCommunication``).
        has_own_environment: Install the model's requirements into a separate environment.
    """

    least: int = 1
    most: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: int = 120
    startup_timeout_s: int = 120
    max_retry_s: int = 300
    client_timeout_ms: int = 0
    queue: int = 100
    needs_ticket: bool = False
    is_stateful: bool = False
    is_continuous: bool = False
    sequence_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    max_sequences: int = 0
    sequence_queue: int = 0
    device: str = ""
    device_ids: tuple[int, ...] = ()
    parallel_type: str = ""
    parallel_level: int = 0
    is_async: bool = False
    has_own_environment: bool = False


def on_machine(workers: Workers, gpus: int) -> Workers:
    """Resolve the device settings for a machine with that many GPUs (TS-Y2).

    As in TorchServe, the default is a GPU, and a list that names a missing GPU is ignored.

    >>> [on_machine(Workers(device_ids=ids), 3).device_ids for ids in ((1, 2), (1, 3))]
    [(1, 2), ()]
    >>> on_machine(Workers(), 1).device, on_machine(Workers(device="gpu"), 0).device
    ('gpu', 'cpu')
    """
    ids = workers.device_ids
    if not all(id < gpus for id in workers.device_ids):
        ids = ()
    return msgspec.structs.replace(
        workers, device="gpu" if gpus and workers.device != "cpu" else "cpu", device_ids=ids
    )


class Part(msgspec.Struct, frozen=True):
    """Named part of a form. ``data`` is UINT8 ``[n]``; ``content_type`` may be empty."""

    name: str
    data: Array
    content_type: str = ""


class Form(msgspec.Struct, frozen=True):
    """Input of a handler.

    Attributes:
        parts: Parts with unique names.
        headers: Headers of the call, as they were sent.
    """

    parts: tuple[Part, ...] = ()
    headers: Mapping[str, str] = _NO_HEADERS


#: Form that asks a handler to describe itself (``describe_handle``): JSON, if it is an object.
DESCRIBE: Final = Form(headers={"describe": "True"})
#: Header of a form that asks for an explanation.
EXPLAIN: Final[Mapping[str, str]] = {"explain": "True"}


class HandlerReply(msgspec.Struct, frozen=True):
    """Reply of a handler to one request, or one piece of it.

    Attributes:
        reason: Phrase of the status line; empty = the usual one.
        content_type: Content type; empty = not set by the handler.
        headers: Additional headers set by the handler.
        is_error: ``body`` is an error message and ``status`` its code.
        metrics: Metric lines that the handler has written since the last run.
    """

    body: bytes = b""
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    is_error: bool = False
    metrics: tuple[str, ...] = ()


class _FormHead(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Content of a form other than its bytes, packed into one parameter."""

    headers: Mapping[str, str] = _NO_HEADERS
    types: Mapping[str, str] = _NO_HEADERS  # content types of the parts


class _ReplyHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """Content of a reply other than its bytes, packed into one parameter."""

    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    is_error: bool = False
    metrics: tuple[str, ...] = ()


_write = msgspec.json.Encoder().encode
_read_words = msgspec.json.Decoder(_FormHead).decode
_read_said = msgspec.json.Decoder(_ReplyHead).decode


def part(name: str, data: bytes | bytearray | memoryview, content_type: str = "") -> Part:
    """Make a part of these bytes without copying them.

    >>> part("body", b"abc").data.tolist()
    [97, 98, 99]
    """
    array = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    return Part(name, array, content_type)


def as_request(
    model: str,
    form: Form,
    version: str = "",
    sequence: tuple[str, bool, bool] | None = None,
    id: str = "",
    *,
    is_alone: bool = False,
) -> InferRequest:
    """Return the request that carries a form.

    Args:
        sequence: Id of its sequence, and whether it is the first and the last request of it.
        id: Id of the call, passed to the handler.
        is_alone: Run it without other requests (TS-G7).
    """
    types = {each.name: each.content_type for each in form.parts if each.content_type}
    parameters: dict[str, Parameter] = {_FORM: _write(_FormHead(form.headers, types)).decode()}
    if is_alone:
        parameters[_ALONE] = True
    if sequence is not None:
        parameters.update(zip(SEQUENCE, sequence, strict=True))
    tensors = tuple([Tensor(each.name, DataType.UINT8, each.data) for each in form.parts])
    return InferRequest(model, tensors, version, id, parameters=parameters)


def is_alone(request: InferRequest) -> bool:
    """Return whether the request must not share its run with others."""
    return _ALONE in request.parameters


def is_form(request: InferRequest) -> bool:
    """Return whether the request was made by :func:`as_request`, not by a tensor protocol."""
    return _FORM in request.parameters


def form_of(request: InferRequest) -> Form:
    """Return the form that a request made by :func:`as_request` carries."""
    words = _read_words(str(request.parameters[_FORM]))
    types = words.types
    parts = [Part(tensor.name, tensor.array, types.get(tensor.name, "")) for tensor in request.inputs]
    return Form(tuple(parts), words.headers)


def as_answer(reply: HandlerReply) -> tuple[dict[str, Array], dict[str, Parameter]]:
    """Return outputs and parameters that carry a reply."""
    outputs = {BODY: part(BODY, reply.body).data}
    said = _ReplyHead(
        reply.status, reply.reason, reply.content_type, reply.headers, reply.is_error, reply.metrics
    )
    text = _write(said).decode()
    return outputs, {} if text == "{}" else {_REPLY: text}


def reply_of(body: Array | None, parameters: Mapping[str, Parameter]) -> HandlerReply:
    """Return the reply that these outputs and parameters carry."""
    data = b"" if body is None else body.tobytes()
    text = parameters.get(_REPLY)
    if text is None:
        return HandlerReply(data)
    said = _read_said(str(text))
    return HandlerReply(
        data, said.status, said.reason, said.content_type, said.headers, said.is_error, said.metrics
    )


def status_of(parameters: Mapping[str, Parameter]) -> int:
    """Return the status of a handler's reply; 200 if there is none."""
    text = parameters.get(_REPLY)
    if text is None:
        return 200
    return _read_said(str(text)).status


# Status and registration of handlers, for operators.


class WorkerStatus(msgspec.Struct, frozen=True):
    """Status of one worker.

    Attributes:
        id: Number of the worker; TorchServe counts from 9000.
        started: Unix time in seconds.
        pid: Process id; -1 = not started yet.
        memory: Bytes in use; 0 = unknown.
        gpu: GPU in use; None = none.
    """

    id: int
    started: float
    status: Literal["READY", "UNLOADING", "STARTING"] = "READY"
    pid: int = -1
    memory: int = 0
    gpu: int | None = None


class HandlerStatus(msgspec.Struct, frozen=True):
    """Status of one version of a handler.

    Attributes:
        url: URL of its registration.
        runtime: Usually ``python``.
        waiting: Number of waiting requests.
        is_loaded_at_startup: The version was not registered by a request.
    """

    name: str
    version: str
    url: str
    workers: Workers
    running: tuple[WorkerStatus, ...] = ()
    waiting: int = 0
    runtime: str = "python"
    is_default: bool = False
    is_loaded_at_startup: bool = False


class ModelListing(NamedTuple):
    """Entry of a model list: URL of the default version, and whether a version existed at startup."""

    name: str
    url: str
    is_loaded_at_startup: bool = False


class Registration(msgspec.Struct, frozen=True):
    """Content of a request to register a model; None = not set in the request (TS-M1).

    Attributes:
        url: File or folder of the model store, or a URL (``file://``, ``http://``, ``https://``).
        name: Model name; empty = as in the archive.
        handler, runtime: Replace those of the archive; empty = as in the archive.
        waits: Answer only when the workers are ready.
    """

    url: str
    name: str = ""
    handler: str = ""
    runtime: str = ""
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    initial_workers: int | None = None
    waits: bool = True
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    is_encrypted: bool = False


class RegistrationResult(msgspec.Struct, frozen=True):
    """Result of a registration with its number of workers; not ``is_done`` = still starting."""

    name: str
    version: str
    workers: int
    is_done: bool


class WorkflowStatus(msgspec.Struct, frozen=True):
    """Status of a workflow of handlers.

    Attributes:
        url: URL of the archive, from its registration.
        least, most, batch_size, max_batch_delay_ms: Defaults of its nodes.
        graph: Nodes, and the successors of each, as text.
    """

    name: str
    url: str
    least: int
    most: int
    batch_size: int
    max_batch_delay_ms: int
    graph: str


#: Result of changing the number of workers: all are ready; some are not yet; nobody waited.
Scaled = Literal["done", "partly", "begun"]
#: Description that a handler gives of itself (``describe_handle``).
Metadata = Mapping[str, Any] | None


def joined(replies: Sequence[HandlerReply]) -> HandlerReply:
    """Join the pieces of an answer into one reply; status and headers are those of the first piece."""
    first = replies[0]
    if len(replies) == 1:
        return first
    return msgspec.structs.replace(first, body=b"".join([reply.body for reply in replies]))
