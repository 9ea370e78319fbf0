"""Loading and running of a model inside its host process.

An input is a view of shared memory that the next run overwrites: a model that wants to keep one copies it.
"""

import importlib
import operator
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Literal

import msgspec
import numpy as np

from salver.backends import reshaped
from salver.backends.callbacks import ServerAccess
from salver.backends.protocol import (
    Answer,
    Backend,
    FormModel,
    IdleAwareModel,
    RequestModel,
    RunnableModel,
    StreamModel,
)
from salver.kernel.engine.callback_client import HostServerAccess
from salver.kernel.engine.control import (
    GiveUp,
    Load,
    Next,
    Reply,
    ResponseHead,
    Run,
    RunError,
    RunResult,
    Stop,
    TensorsTaken,
    apart,
    describe,
    numbered,
    stacked,
)
from salver.kernel.engine.host_channel import Channel
from salver.kernel.engine.isolation import confine
from salver.kernel.engine.outlets import ResponseSender, ResponseSenders
from salver.kernel.engine.shm import Arena, Block
from salver.words.errors import InvalidOutput, LoadFailed, ModelFailed, SalverError
from salver.words.messages import InferRequest, RequestedOutput
from salver.words.tensor import Array, DataType, Tensor, tensor

#: Types of arrays that may be laid out as they are.
_PLAIN = frozenset(kind.dtype for kind in DataType if kind is not DataType.BYTES)


def named(name: str) -> Any:
    """Import and return what ``module:attribute`` names."""
    module, _, attribute = name.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))


def load_model(load: Load, around: ServerAccess | None) -> RunnableModel:
    """Set the limits of an order to load, and load its model."""
    wish = load.manifest.config.instances
    if wish.cpus or wish.cpu_quota:
        confine(wish, load.options.instance, load.options.threads)
    if load.memory_limit_mb:
        limit = load.memory_limit_mb << 20
        # Address space, not resident memory: the only limit that makes allocations fail instead of killing.
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if load.path:
        sys.path[:] = load.path
    found = named(load.backend)
    backend: Backend = found
    if isinstance(found, type):
        backend = found()
    options = msgspec.structs.replace(load.options, own_process=True, around=around)
    return reshaped.load(backend, load.manifest, options)


def asks_of(model: RunnableModel) -> Literal["batch", "requests", "stream", "forms"]:
    """Return what a model wants to be given (:class:`~salver.kernel.engine.control.LoadResult`)."""
    if isinstance(model, StreamModel):
        return "stream"
    if isinstance(model, FormModel):
        return "forms"
    if isinstance(model, RequestModel):
        return "requests"
    return "batch"


def serve(
    channel: Channel,
    model: Any,
    load: Load,
    requests: Arena,
    responses: Arena,
    around: HostServerAccess | None,
) -> None:
    """Run a model on orders until told to stop."""
    asks = asks_of(model)
    if isinstance(model, IdleAwareModel):
        channel.when_idle(model.on_idle)
    if asks == "stream":
        _serve_streams(channel, model, load, requests, responses)
        return
    # After a lone request the next one is likely to come soon, so the channel spins for it briefly.
    is_lone = False
    while not isinstance(order := channel.receive(is_lone=is_lone), Stop | Load):
        is_lone = isinstance(order, Run) and len(order.asked) == 1
        if not isinstance(order, Run):
            continue
        try:
            # A batch is only read during the run; requests may be kept by the model, so they need copies.
            inputs = requests.read(order.inputs, copy=asks != "batch")
            if order.asked and asks == "requests":
                gone = None
                if around:
                    gone = around.begin_run()
                asking = _requests(model, order, inputs, load, gone)
                reply: Reply = _answer(model, asking, responses)
            else:
                outputs, seconds = run_batch(model, inputs)
                reply = RunResult(_lay_out(outputs, responses), seconds)
        except BaseException as error:  # sys.exit() in a model is its failure, not an order
            reply = run_failure(error, load)
        channel.send(reply)


def _serve_streams(
    channel: Channel, model: StreamModel, load: Load, requests: Arena, responses: Arena
) -> None:
    """Run a model that answers in pieces; another thread receives orders meanwhile."""
    runs: SimpleQueue[tuple[Run, list[ResponseSender]] | None] = SimpleQueue()
    outlets = ResponseSenders(channel.send, lambda given: _lay_out(given, responses), lambda: runs.put(None))
    stopping = threading.Event()

    def hear() -> None:
        while not isinstance(order := channel.receive(), Stop | Load):
            if isinstance(order, Run):  # open its outlets now: readers may leave before the model is free
                runs.put((order, [outlets.open(mark) for mark in order.marks]))
            elif isinstance(order, Next | GiveUp | TensorsTaken):
                outlets.hear(order)
        stopping.set()
        outlets.close()
        runs.put(None)

    threading.Thread(target=hear, name="salver-orders", daemon=True).start()
    # Requests that have begun are answered even after a stop: a model may end them late.
    while not stopping.is_set() or len(outlets):
        if (run := runs.get()) is not None:
            channel.send(_stream(model, *run, load, requests))


def _stream(
    model: StreamModel, order: Run, listeners: Sequence[ResponseSender], load: Load, requests: Arena
) -> RunResult:
    began = time.perf_counter()
    try:
        inputs = requests.read(order.inputs, copy=True)
        model.stream(_requests(model, order, inputs, load), listeners)
    except BaseException as error:
        why = run_failure(error, load)
        for listener in listeners:
            listener.end(why)
    return RunResult((), time.perf_counter() - began)


def run_batch(model: RunnableModel, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """Run a model; return its outputs and the seconds that it took."""
    # The model alone: copies between the processes are not its time, and would spoil its law.
    began = time.perf_counter()
    outputs = model.run(inputs)
    return dict(outputs), time.perf_counter() - began


def _answer(model: RequestModel, asking: list[InferRequest], responses: Arena) -> RunResult:
    """Run a model on requests that it wants one by one."""
    began = time.perf_counter()
    answers = model.answer(asking)
    seconds = time.perf_counter() - began
    blocks, rows = _lay_out_each(answers, model.signature.batched, responses)
    return RunResult(blocks, seconds, tuple(map(_told, answers)), rows)


def _told(answer: Answer | SalverError) -> ResponseHead | RunError | None:
    if isinstance(answer, SalverError):
        return describe(answer)
    is_plain = not answer.parameters and not answer.again
    # None is what most requests get: it is not worth a record on the channel.
    if is_plain:
        return None
    return ResponseHead(dict(answer.parameters), answer.again)


def _lay_out_each(
    answers: Sequence[Answer | SalverError], batched: bool, responses: Arena
) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """Write outputs; return where they lie and, if stacked, the rows of each answer (:class:`RunResult`)."""
    parts = [{} if isinstance(a, SalverError) else plain(a.outputs) for a in answers]
    if len(parts) == 1:
        return responses.write(parts[0]), ()
    # Stack outputs with equal names and row shapes, or else write each answer's arrays under its number.
    good = [list(part.items()) for part in parts if part]
    columns = stacked(good) if batched and good else None
    if columns is None:
        return responses.write(numbered(parts)), ()
    rows = tuple([len(next(iter(part.values()))) if part else 0 for part in parts])
    return responses.write_stacked(columns), rows


def _requests(
    model: RunnableModel,
    order: Run,
    inputs: dict[str, Array],
    load: Load,
    gone: Callable[[int], Callable[[], bool]] | None = None,
) -> list[InferRequest]:
    id, signature = load.manifest.id, model.signature
    types = {spec.name: spec.datatype for spec in signature.inputs}
    every = tuple([RequestedOutput(spec.name) for spec in signature.outputs])
    requests: list[InferRequest] = []
    for said, part in zip(order.asked, apart(inputs, order.rows, len(order.asked)), strict=True):
        tensors = tuple(
            [
                Tensor(name, types[name], array) if name in types else tensor(name, array)
                for name, array in part.items()
            ]
        )
        is_gone = gone(len(requests)) if gone else None
        if said is None:
            request = InferRequest(id.name, tensors, id.version, outputs=every, is_gone=is_gone)
        else:
            wanted = tuple(map(RequestedOutput, said.outputs))
            request = InferRequest(
                id.name,
                tensors,
                id.version,
                said.id,
                wanted,
                said.parameters,
                said.trace,
                is_gone=is_gone,
            )
        requests.append(request)
    return requests


def _lay_out(outputs: Mapping[str, Array], responses: Arena) -> tuple[Block, ...]:
    return responses.write(plain(outputs))


def plain(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs as arrays of the types that tensors have. Raises InvalidOutput."""
    arrays = {}
    for name, value in outputs.items():
        if type(value) is not np.ndarray or value.dtype not in _PLAIN:
            try:
                value = tensor(name, value).array
            except ValueError as error:
                raise InvalidOutput(f"output {name!r} is no tensor: {error}") from error
        arrays[name] = value
    return arrays


def load_failure(error: BaseException, load: Load) -> RunError:
    """Return the reply for an error that loading raised."""
    if isinstance(error, SalverError):
        return describe(error)
    traceback.print_exception(error)
    name = load.manifest.id.name
    if isinstance(error, MemoryError):
        return describe(_out_of_memory(LoadFailed, f"model '{name}' ran out of memory while loading", load))
    return describe(LoadFailed(f"model '{name}' could not be loaded: {type(error).__name__}: {error}"))


def run_failure(error: BaseException, load: Load) -> RunError:
    """Return the reply for an error that a run raised."""
    if isinstance(error, SalverError):
        return describe(error)
    name = load.manifest.id.name
    if isinstance(error, MemoryError):
        return describe(_out_of_memory(ModelFailed, f"model '{name}' ran out of memory", load))
    traceback.print_exception(error)
    return describe(ModelFailed(f"model '{name}' raised {type(error).__name__}: {error}"))


def _out_of_memory(kind: type[SalverError], text: str, load: Load) -> SalverError:
    if not load.memory_limit_mb:
        return kind(text)
    return kind(
        f"{text}: its host process may use {load.memory_limit_mb} MiB of address space",
        fix="Raise instances.memory_limit_mb, or lower batching.max_rows.",
    )
