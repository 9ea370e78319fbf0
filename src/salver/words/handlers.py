"""What is said of handlers: programs of their owner's that take named bytes, as TorchServe's models do?

A *handler* is run by *workers*, each a host process with the whole model. It is asked by a *form*: parts
with a name and a content type each, and the caller's headers. A form travels as an :class:`InferRequest`, a
reply as outputs and parameters, so that engines and host processes carry them like any other. These records
know no wire, no process and no framework.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from salver.words.messages import InferRequest, Parameter, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor

#: What recognition calls an archive of a handler, and the platform of its signature.
FORMAT: Final = "torchserve"
#: The output that holds a reply's bytes.
BODY: Final = "body"
#: Of every handler: any parts in, bytes out.
SIGNATURE: Final = Signature(
    (), (TensorSpec(BODY, DataType.UINT8, (-1,)),), platform="torchserve_mar", takes_forms=True
)
#: Parameters of requests and responses that no caller can send under that name.
_FORM: Final = "\0form"
_REPLY: Final = "\0reply"
_ALONE: Final = "\0alone"
#: Workers that a version may be told to have; each is a process.
MOST_WORKERS: Final = 1024
#: Of requests that go on with a sequence, as Triton's callers name them.
SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a handler is run.

    Attributes:
        least, most: Workers that there shall be; ``least`` are started, and no more by themselves.
        batch_size: Most requests of a run; 0 counts as 1.
        max_batch_delay_ms: How long the first request of a batch waits for others.
        response_timeout_s: A run that takes longer is a hang, and its worker is started anew.
        startup_timeout_s: So long a worker may take to be ready; 0 = no worker can start, as in TorchServe.
        max_retry_s: A worker that keeps failing is tried again within this time; then the model is unhealthy.
        client_timeout_ms: A request that has waited so long is not run any more; 0 = it waits.
        queue: Most requests that wait, beside those that run.
        needs_ticket: A request is refused at once while no worker is idle.
        is_stateful: Requests of one sequence go to one worker, in their order.
        is_continuous: A running batch is refilled between steps (continuous batching).
        sequence_idle_ms: A sequence of which nothing is heard so long is over; 0 = never.
        sequence_timeout_ms: A sequence is over after this time, whatever is heard of it; 0 = never.
        max_sequences: Sequences at one time, of all workers; 0 counts as 1.
        sequence_queue: Most requests of one sequence that wait; 0 counts as 1.
        device: ``cpu`` or ``gpu``; empty = a GPU where there is one (:func:`on_machine`).
        device_ids: Which GPUs its workers use in turn; empty = all of them.
        parallel_type, parallel_level: What the owner wants of several; for those who ask.
        is_async: The handler answers when it likes (``asyncCommunication``).
        has_own_environment: The model's requirements are installed into an environment of its own.
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
    """How a handler is run where there are so many GPUs (TS-Y2).

    As TorchServe has it: who says nothing gets one, and a list with one that is not there counts for nothing.

    >>> [on_machine(Workers(device_ids=ids), 3).device_ids for ids in ((1, 2), (1, 3))]
    [(1, 2), ()]
    >>> on_machine(Workers(), 1).device, on_machine(Workers(device="gpu"), 0).device
    ('gpu', 'cpu')
    """
    ids = workers.device_ids if all(id < gpus for id in workers.device_ids) else ()
    return msgspec.structs.replace(
        workers, device="gpu" if gpus and workers.device != "cpu" else "cpu", device_ids=ids
    )


class Part(msgspec.Struct, frozen=True):
    """A named part of a form. ``data`` is UINT8 ``[n]``; an empty ``content_type`` says nothing of it."""

    name: str
    data: Array
    content_type: str = ""


class Form(msgspec.Struct, frozen=True):
    """What a handler is asked.

    Attributes:
        parts: Names occur once.
        headers: Of the call, as they were sent.
    """

    parts: tuple[Part, ...] = ()
    headers: Mapping[str, str] = _NO_HEADERS


#: Asks a handler what it tells of itself (``describe_handle``): JSON, if it is an object.
DESCRIBE: Final = Form(headers={"describe": "True"})
#: Header of a form that asks for an explanation.
EXPLAIN: Final[Mapping[str, str]] = {"explain": "True"}


class HandlerReply(msgspec.Struct, frozen=True):
    """What a handler says to one request, or one piece of it.

    Attributes:
        reason: Phrase of the status line; empty = the usual one.
        content_type: Empty = the handler has not said it.
        headers: Further ones, as the handler set them.
        is_error: ``body`` is the message of an error, and ``status`` its code.
        metrics: Lines that the handler's metrics have written since the last run, for the server.
    """

    body: bytes = b""
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    is_error: bool = False
    metrics: tuple[str, ...] = ()


class _Words(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """What a form says beside its bytes, in one parameter."""

    headers: Mapping[str, str] = _NO_HEADERS
    types: Mapping[str, str] = _NO_HEADERS  # of parts


class _Said(msgspec.Struct, frozen=True, omit_defaults=True):
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    is_error: bool = False
    metrics: tuple[str, ...] = ()


_write = msgspec.json.Encoder().encode
_read_words = msgspec.json.Decoder(_Words).decode
_read_said = msgspec.json.Decoder(_Said).decode


def part(name: str, data: bytes | bytearray | memoryview, content_type: str = "") -> Part:
    """A part of these bytes, which are not copied.

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
    """The request that carries a form.

    Args:
        sequence: Id of the sequence that it belongs to, and whether it is its first and its last one.
        id: Of the call, which the handler is told; no other's.
        is_alone: No other request shares its run (TS-G7).
    """
    types = {each.name: each.content_type for each in form.parts if each.content_type}
    parameters: dict[str, Parameter] = {_FORM: _write(_Words(form.headers, types)).decode()}
    if is_alone:
        parameters[_ALONE] = True
    if sequence is not None:
        parameters.update(zip(SEQUENCE, sequence, strict=True))
    tensors = tuple([Tensor(each.name, DataType.UINT8, each.data) for each in form.parts])
    return InferRequest(model, tensors, version, id, parameters=parameters)


def is_alone(request: InferRequest) -> bool:
    """Is it to share its run with no other?"""
    return _ALONE in request.parameters


def is_form(request: InferRequest) -> bool:
    """Was it made by :func:`as_request`, and not by a protocol of tensors?"""
    return _FORM in request.parameters


def form_of(request: InferRequest) -> Form:
    """The form that a request of :func:`as_request` carries."""
    words = _read_words(str(request.parameters[_FORM]))
    types = words.types
    parts = [Part(tensor.name, tensor.array, types.get(tensor.name, "")) for tensor in request.inputs]
    return Form(tuple(parts), words.headers)


def as_answer(reply: HandlerReply) -> tuple[dict[str, Array], dict[str, Parameter]]:
    """Outputs and parameters that carry a reply."""
    outputs = {BODY: part(BODY, reply.body).data}
    said = _Said(reply.status, reply.reason, reply.content_type, reply.headers, reply.is_error, reply.metrics)
    text = _write(said).decode()
    return outputs, {} if text == "{}" else {_REPLY: text}


def reply_of(body: Array | None, parameters: Mapping[str, Parameter]) -> HandlerReply:
    """The reply that these outputs and parameters carry."""
    data = b"" if body is None else body.tobytes()
    text = parameters.get(_REPLY)
    if text is None:
        return HandlerReply(data)
    said = _read_said(str(text))
    return HandlerReply(
        data, said.status, said.reason, said.content_type, said.headers, said.is_error, said.metrics
    )


def status_of(parameters: Mapping[str, Parameter]) -> int:
    """The status that a handler gave its reply; 200 of whatever says nothing."""
    text = parameters.get(_REPLY)
    return 200 if text is None else _read_said(str(text)).status


# What is told of handlers, and wanted of them, by their operators.


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker.

    Attributes:
        id: Its number; TorchServe counts from 9000.
        started: Unix time in seconds.
        pid: -1 = it is not there yet.
        memory: Bytes that it holds; 0 = not known.
        gpu: The one that it uses; None = none.
    """

    id: int
    started: float
    status: Literal["READY", "UNLOADING", "STARTING"] = "READY"
    pid: int = -1
    memory: int = 0
    gpu: int | None = None


class HandlerStatus(msgspec.Struct, frozen=True):
    """One version of a handler, to its operators.

    Attributes:
        url: Where it came from, as it was registered.
        runtime: ``python``, mostly.
        waiting: Requests that wait.
        is_loaded_at_startup: It was not registered by a request.
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


class Listed(NamedTuple):
    """A model in a list: where its default version came from; was one of its versions there at the start?"""

    name: str
    url: str
    is_loaded_at_startup: bool = False


class Registration(msgspec.Struct, frozen=True):
    """What a request to register a model says; None = it says nothing of that (TS-M1).

    Attributes:
        url: A file or folder of the model store, ``file://``, ``http://`` or ``https://``.
        name: Empty = as in the archive.
        handler, runtime: In place of the archive's; empty = as there.
        waits: Answer when the workers are there.
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


class Registered(msgspec.Struct, frozen=True):
    """A model was registered, with so many workers; not ``is_done``: they are still starting."""

    name: str
    version: str
    workers: int
    is_done: bool


class WorkflowStatus(msgspec.Struct, frozen=True):
    """A workflow of handlers, to its operators.

    Attributes:
        url: Of its archive, as it was registered.
        least, most, batch_size, max_batch_delay_ms: Of those of its nodes that say nothing else.
        graph: Its nodes, and which come after each, in words.
    """

    name: str
    url: str
    least: int
    most: int
    batch_size: int
    max_batch_delay_ms: int
    graph: str


#: How a change of the number of workers went: they are all there; some are not, yet; nobody waited.
Scaled = Literal["done", "partly", "begun"]
#: What a handler tells of itself (``describe_handle``).
Metadata = Mapping[str, Any] | None


def joined(replies: Sequence[HandlerReply]) -> HandlerReply:
    """One reply of the pieces of an answer; status and headers are the first one's."""
    first = replies[0]
    if len(replies) == 1:
        return first
    return msgspec.structs.replace(first, body=b"".join([reply.body for reply in replies]))
