"""Protocols of backends and of loaded models.

A *backend* recognises artefacts and loads them; a *runnable model* answers requests. Backends are found by
entry point (group ``salver.backends``, the value being a :class:`Backend` instance or class), including the
built-in ones. ``salver.testing.backends`` holds the conformance suite. This module imports no framework; a
backend imports its own inside ``load``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from salver.backends.callbacks import ServerAccess
from salver.words.artifacts import Manifest
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, Parameter, RequestedOutput, Signature
from salver.words.tensor import Array, Tensor

_NONE: Mapping[str, Parameter] = {}
#: Hidden input that selects a signature other than the first: its index in ``signature.others``. Callers
#: cannot send it.
SIGNATURE = "\0signature"


class Traits(msgspec.Struct, frozen=True):
    """Properties of a backend's models that determine how they run.

    Attributes:
        releases_gil: ``run`` releases the interpreter lock.
        concurrent: ``run`` may be called from several threads at once on one model.
        native: ``run`` executes a fixed graph of compiled code: it cannot sleep, block on
            I/O or call back into Python. Such a model may run on the event loop when it is
            measured to be tiny.
        isolate: run it in a host process of its own by default (arbitrary Python code).
        reads_config: its models receive their configuration (``LoadOptions.config``).
        harmless_formats: formats, as named by ``recognise``, that a request may upload. A file of such a
            format is data from any source: loading and running it reads only the artefact's own files,
            writes none, uses no network and runs no code from the file. It may end its process. None =
            unknown, which counts as no format.
        repeatable: a request may be run once more if its host process died, because a run has no side
            effects. Unknown = no.
        unrepeatable: formats of a repeatable backend that hold code, and so are none of that.
        gpu: its models load onto the GPU of ``LoadOptions.gpu``, and fail to load if they cannot.
    """

    releases_gil: bool = True
    concurrent: bool = True
    native: bool = False
    isolate: bool = False
    reads_config: bool = False
    repeatable: bool = False
    unrepeatable: frozenset[str] = frozenset()
    gpu: bool = False
    harmless_formats: frozenset[str] | None = None

    def touches_machine(self, form: str) -> bool:
        """Return True unless artefacts of that format are known to be harmless from any source.

        >>> traits = Traits(harmless_formats=frozenset({"onnx"}))
        >>> traits.touches_machine("onnx"), traits.touches_machine("savedmodel")
        (False, True)
        """
        return form not in (self.harmless_formats or ())


class LoadOptions(msgspec.Struct, frozen=True):
    """Options from the host of a model to the backend.

    Attributes:
        threads: Threads inside one run, at least 1.
        trust_pickle: The operator allows files whose loading can execute code.
        own_process: The process runs only this model.
        instance: Index of the instance, from 0.
        gpu: GPU to use, as numbered by its libraries; None = none.
        config: The configured part of the model's configuration as Triton's JSON, for backends that read it.
        around: The server, for models that call it; never sent to another process.
    """

    threads: int = 1
    trust_pickle: bool = False
    own_process: bool = False
    instance: int = 0
    gpu: int | None = None
    config: str = ""
    around: ServerAccess | None = None


class RunnableModel(Protocol):
    """A loaded model. Arrays follow the conventions of :mod:`salver.words.tensor`."""

    @property
    def signature(self) -> Signature:
        """Return inputs and outputs, and whether axis 0 is a batch."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once.

        Keys are tensor names of the signature (or of one of its others, selected by :data:`SIGNATURE`).
        Inputs have been checked against it, must not be written to, and must be copied to be kept beyond the
        run (in a host process they lie in memory that the next run overwrites). Every output of the signature
        is returned, with its datatype's dtype. May raise anything: the engine answers with ``ModelFailed``,
        or with the error itself if it is a ``SalverError``.
        """
        ...

    def close(self) -> None:
        """Release memory, threads and files. Called once, after the last ``run``."""
        ...


class Answer(msgspec.Struct, frozen=True):
    """Answer of a :class:`RequestModel` to one request.

    Attributes:
        outputs: Requested outputs by name.
        parameters: Parameters of the response.
        again: Not a response: run the request again as the next one of its sequence (Triton's rescheduling).
            For a model that answers in pieces, on the last piece. For a :class:`FormModel`, this is a piece,
            and the request takes part in the next step.
    """

    outputs: Mapping[str, Array]
    parameters: Mapping[str, Parameter] = _NONE
    again: bool = False


@runtime_checkable
class RequestModel(RunnableModel, Protocol):
    """A loaded model that takes the requests of a run one by one."""

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """Return an answer or error for each request, in order; inputs and outputs as in ``run``.

        Requests name their model, version and all requested outputs. An exception fails all of them.
        """
        ...


@runtime_checkable
class SizedModel(RequestModel, Protocol):
    """A request model that runs compiled code, for a time that grows with the size of its requests.

    Requests that are measured to be short may be answered on the event loop, as those of native models.
    """

    def size_of(self, request: InferRequest) -> int:
        """Return the size of a request, at least 1; 0 = its size says nothing of its time."""
        ...


def run_alone(model: RequestModel, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return all outputs of a model for inputs of no request; for its ``run``. Raises its error."""
    types = {spec.name: spec.datatype for spec in model.signature.inputs}
    tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items())
    outputs = tuple(RequestedOutput(spec.name) for spec in model.signature.outputs)
    (answer,) = model.answer([InferRequest("", tensors, outputs=outputs)])
    if isinstance(answer, SalverError):
        raise answer
    return answer.outputs


@runtime_checkable
class ReadyModel(RunnableModel, Protocol):
    """A loaded model that reports its own readiness."""

    def is_ready(self) -> bool:
        """Return whether it can answer; called during runs, on another thread. An exception means no."""
        ...


class Listener(Protocol):
    """Receiver of the responses to one request. Thread-safe."""

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        """Send a response and wait until it has been consumed; no effect after cancellation."""
        ...

    def is_cancelled(self) -> bool:
        """Return whether the request was cancelled."""
        ...

    def end(self) -> None:
        """End the responses; a second call has no effect."""
        ...


@runtime_checkable
class StreamModel(RunnableModel, Protocol):
    """A loaded model that returns any number of responses per request (decoupled)."""

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        """Answer requests, each through its own listener, which the model ends.

        It may return before it has answered, and then gets the next requests. An exception ends those that
        have not ended.
        """
        ...


@runtime_checkable
class FormModel(RunnableModel, Protocol):
    """A loaded handler: it takes forms (:mod:`salver.words.handlers`), and may answer them in pieces.

    An asynchronous handler (``workers.is_async``) is a :class:`StreamModel` of forms instead.
    """

    def reply(
        self, requests: Sequence[InferRequest], send: Callable[[int, Answer], None]
    ) -> Sequence[Answer]:
        """Return the answer to each request, in order; for one answered in pieces, the last piece.

        Answers are made by :func:`salver.words.handlers.as_answer`; a failure of the handler is also an
        answer. An exception fails all of them.

        With continuous batching (``workers.is_continuous``) a run is a step. A request whose answer has
        ``again`` gets a piece and takes part in the next step, where it has its id and no form, and precedes
        new ones. If it is missing there, its caller is gone and it can be dropped.

        Args:
            requests: An id, if present, is unique among running requests; those of steps have one.
            send: Sends a piece before the answer, for the request with that index. Callable from any thread
                during this
                call; no effect after cancellation.
        """
        ...


@runtime_checkable
class IdleAwareModel(Protocol):
    """A loaded model that keeps buffers for its next run."""

    def on_idle(self) -> None:
        """Release buffers, because there was no request for some seconds. Must not raise."""
        ...


class StepModel(Protocol):
    """A loaded model that advances sequences of tokens step by step.

    Each sequence has a state slot, a number from 0 to ``steps.max_sequences`` - 1. All calls except ``close``
    come from one thread. Scores for the next token are FP32, one per token of the vocabulary; their softmax
    is the model's distribution.
    """

    def prefill(self, slot: int, tokens: Array) -> Array:
        """Process a piece (INT64 ``[n]``, n ≥ 1) of a sequence's prompt; return scores ``[vocabulary]``.

        It follows what the slot has processed already. An exception ends only this sequence.
        """
        ...

    def step(self, slots: Array, tokens: Array) -> Array:
        """Advance several sequences by one token each (both INT64 ``[n]``, slots distinct).

        Returns scores ``[n, vocabulary]``. A row of NaN ends only its sequence; an exception ends all of
        them.
        """
        ...

    def release(self, slot: int) -> None:
        """Release the slot of a finished or cancelled sequence; the next use of the slot is a new one."""
        ...

    def close(self) -> None:
        """Release memory, threads and files. Called once, after everything else."""
        ...


@runtime_checkable
class ResumableSteps(StepModel, Protocol):
    """A step model whose states can be copied out of a slot and into another one, by parts of a prompt.

    What one prompt left can so serve another one that begins with the same tokens.
    """

    def save(self, slot: int, start: int, end: int) -> tuple[Array, ...]:
        """Return copies of the states after the tokens ``start`` to ``end``, the last that the slot has read.

        Of a state with a place for each token only these places; of others the whole.
        """
        ...

    def resume(self, slot: int, parts: Sequence[tuple[Array, ...]], tokens: int) -> None:
        """Give an empty slot the states after so many tokens.

        Args:
            parts: What ``save`` returned for consecutive parts of these tokens. Not to be changed.
        """
        ...


@runtime_checkable
class RecallingSteps(StepModel, Protocol):
    """A step model that knows states after the beginnings of earlier prompts.

    Attributes:
        block: Tokens of a part of a prompt that is kept; prompts are read in such blocks, from their
            beginning, and the rest at once. 0 = nothing is kept.
    """

    block: int

    def recall(self, slot: int, tokens: Sequence[int], owner: str) -> int:
        """Give an empty slot the state after the longest known beginning of a prompt.

        It is a whole number of blocks, and not the whole prompt. What the slot reads next is kept.

        Args:
            owner: Only beginnings of the same owner's prompts are known.

        Returns:
            The number of tokens of this beginning.
        """
        ...

    def check(self, vocabulary: int, most: int) -> None:
        """Try whether the model goes on from a known state as it would have gone on; else keep nothing.

        Called once, on the thread of the steps, before the first request.

        Args:
            vocabulary: Number of tokens.
            most: Maximum tokens of a sequence.
        """
        ...


class Backend(Protocol):
    """Backend that recognises and loads the artefacts of one framework.

    Attributes:
        name: Name, as in ``backend = "onnx"``.
        extra: The pip extra that installs the framework.
        modules: Required import names, for ``salver doctor``; checked without importing.
        traits: See :class:`Traits`.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    traits: Traits

    def recognise(self, path: Path) -> str | None:
        """Return the format's name (``onnx``, ``savedmodel``, …) if this path is an artefact of this backend.

        Judged by the *content* of the file or folder (a bounded read, never executing or importing anything);
        else None. Must not raise for any readable path.
        """
        ...

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Load an artefact. Blocking; called off the event loop, in the process that will run it.

        Raises:
            MissingExtra: the framework is not installed.
            LoadFailed: the artefact is broken, or ``manifest.config.options`` holds a key that
                the backend does not know; the message says which and what to do.
        """
        ...


class ArtifactKind(msgspec.Struct, frozen=True):
    """Backend and format of an artefact: ``ArtifactKind("onnx", "onnx")``."""

    backend: str
    format: str


#: Recognises a file or folder from a bounded read of its content; None = unknown to all backends.
Recogniser = Callable[[Path], ArtifactKind | None]

#: Given a backend and a format, returns whether such an artefact can touch files or the network, or run code.
TouchesMachine = Callable[[str, str], bool]


@runtime_checkable
class StepBackend(Protocol):
    """Optional part of a :class:`Backend` that loads step models of its own kind.

    Models of other backends are stepped if they have states as inputs and outputs
    (:mod:`salver.backends.stateful`).
    """

    def load_steps(self, manifest: Manifest, options: LoadOptions) -> StepModel:
        """Load a step model, for a manifest whose ``config.steps.vocabulary`` is set."""
        ...


@runtime_checkable
class ForkableBackend(Protocol):
    """Optional part of a :class:`Backend` whose models may run in forks of a process with its framework."""

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """Return what a fork server imports for this model: modules, or functions as ``module:function``.

        Only what may be forked after it was imported and before it was run: it starts no thread that a fork
        would miss, and holds no lock, socket or device. Looks at the artefact as ``recognise`` does.
        """
        ...


@runtime_checkable
class PartialBackend(Protocol):
    """Optional part of a :class:`Backend` of which another backend runs some signatures.

    Attributes:
        rest: What the other backend loads; None = all signatures are this one's.
        runs: Which signatures this one runs, the first one first.
    """

    rest: Manifest | None
    runs: Sequence[bool]


class Cost(msgspec.Struct, frozen=True):
    """Cost of a run of a model, independent of the machine.

    Attributes:
        flops_a_row: Floating-point operations per row, a multiply-add counting as two; 0 = unknown.
        weight_bytes: Bytes of weights, read once per run regardless of its rows.
        bytes_a_row: Bytes of a row's inputs and outputs. Activations between layers are not counted, because
            they may stay in caches.
        int8_ops_a_row: Like ``flops_a_row``, for products of 8-bit integers.
        notes: What could not be counted, as text.
    """

    flops_a_row: float = 0.0
    weight_bytes: float = 0.0
    bytes_a_row: float = 0.0
    int8_ops_a_row: float = 0.0
    notes: tuple[str, ...] = ()


@runtime_checkable
class CountingBackend(Protocol):
    """Optional part of a :class:`Backend` that computes the cost of a run, for ``salver tune``."""

    def cost(self, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
        """Return the cost of a run on inputs of these shapes, for one row.

        What cannot be counted is stated in the notes; raises nothing.
        """
        ...

    def product(self, int8: bool) -> tuple[Callable[[], object], float]:
        """Return a matrix product on the calling thread only, with the framework's own kernels.

        With its number of operations, on 8-bit integers or FP32.
        """
        ...
