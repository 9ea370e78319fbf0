"""What must a framework do so that Salver can run its models?

A *backend* recognises artefacts and loads them; a *runnable model* answers. Both are found
by entry point (group ``salver.backends``, the value being a :class:`Backend` instance or
class), the built-in ones too. ``salver.testing.backends`` holds the conformance suite.
This module imports no framework; a backend imports its own inside ``load``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from salver.backends.callbacks import Surroundings
from salver.words.artifacts import Cost, Manifest
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, Parameter, Signature
from salver.words.tensor import Array

_NONE: Mapping[str, Parameter] = {}
#: An input beside those of a signature that is not the model's first: which of ``signature.others`` it is, by
#: index. No caller can send it.
SIGNATURE = "\0signature"


class Traits(msgspec.Struct, frozen=True):
    """How a backend's models behave towards the process that runs them.

    Attributes:
        releases_gil: ``run`` lets other Python threads work meanwhile.
        concurrent: ``run`` may be called from several threads at once on one model.
        native: ``run`` executes a fixed graph of compiled code: it cannot sleep, block on
            I/O or call back into Python. Such a model may run on the event loop when it is
            measured to be tiny.
        isolate: by default run it in a host process of its own (arbitrary Python code).
        reads_config: its models are told their configuration (``LoadOptions.config``).
        harmless_formats: those formats, by the names that ``recognise`` gives them, that a request may bring.
            A file of such a format is data, whoever made it: loading and running it reads the artefact's own
            files, writes none, reaches no network and runs no code of the file's maker, and the framework
            refuses damaged files without ending its process. None = not said, which counts as no format.
        repeatable: a request may be run once more when its host process died: nothing but the answer comes of
            a run. Unknown = no.
    """

    releases_gil: bool = True
    concurrent: bool = True
    native: bool = False
    isolate: bool = False
    reads_config: bool = False
    repeatable: bool = False
    harmless_formats: frozenset[str] | None = None

    def touches_machine(self, form: str) -> bool:
        """True unless an artefact of that format is known to be harmless, whoever made it.

        >>> traits = Traits(harmless_formats=frozenset({"onnx"}))
        >>> traits.touches_machine("onnx"), traits.touches_machine("savedmodel")
        (False, True)
        """
        return form not in (self.harmless_formats or ())


class LoadOptions(msgspec.Struct, frozen=True):
    """What the host of a model tells the backend.

    Attributes:
        threads: Threads inside one run; at least 1.
        trust_pickle: The operator allowed files whose loading can execute code.
        own_process: Nothing but this model lives in the process.
        instance: Which of the model's instances this is, from 0 on.
        gpu: The one that it shall use, counted as its libraries do; None = none.
        config: The model's configuration as Triton's JSON, as far as its owner has told it; for backends that
            read it.
        around: The server, for models that ask it; never said to another process.
    """

    threads: int = 1
    trust_pickle: bool = False
    own_process: bool = False
    instance: int = 0
    gpu: int | None = None
    config: str = ""
    around: Surroundings | None = None


class RunnableModel(Protocol):
    """A loaded model. Arrays follow the conventions of :mod:`salver.words.tensor`."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, and whether axis 0 is a batch."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Answer once. Keys are tensor names of the signature (or of one of its others, which
        :data:`SIGNATURE` then says); inputs are already checked
        against it, must not be written to, and are kept beyond the run only as a copy (in a host
        process they lie in memory that the next run overwrites). Every output of the signature is
        returned, with its datatype's dtype. May raise anything: the engine answers with
        ``ModelFailed``, or with the error itself when it is a ``SalverError``.
        """
        ...

    def close(self) -> None:
        """Give memory, threads and files back. Called once, after the last ``run``."""
        ...


class Answer(msgspec.Struct, frozen=True):
    """What a :class:`RequestModel` says to one request.

    Attributes:
        outputs: Those that were asked for, by name.
        parameters: Of the response.
        again: This is no response: the model wants the request once more, as what follows in its sequence
            (Triton's rescheduling). The last piece, of a model that answers in pieces. Of a
            :class:`FormModel` it is a piece, and the request takes part in the next step.
    """

    outputs: Mapping[str, Array]
    parameters: Mapping[str, Parameter] = _NONE
    again: bool = False


@runtime_checkable
class RequestModel(RunnableModel, Protocol):
    """A loaded model that wants the requests of a run one by one."""

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """To each request its answer or its own error, in their order; inputs and outputs as in ``run``.

        Requests name their model, version and all wanted outputs. What it raises fails all of them.
        """
        ...


@runtime_checkable
class ReadyModel(RunnableModel, Protocol):
    """A loaded model that has an opinion of its own on whether it is ready."""

    def is_ready(self) -> bool:
        """True if it can answer; asked beside runs, on another thread. What it raises means no."""
        ...


class Listener(Protocol):
    """Takes the responses to one request; any thread may call it."""

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        """Hand over a response and wait until it has been taken; without effect once nobody listens."""
        ...

    def is_cancelled(self) -> bool:
        """Nobody listens any more."""
        ...

    def end(self) -> None:
        """No response follows; a second call does nothing."""
        ...


@runtime_checkable
class StreamModel(RunnableModel, Protocol):
    """A loaded model that gives any number of responses to a request (decoupled)."""

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        """Answer requests, each through a listener of its own, which it ends.

        It may return before it has answered, and is then asked the next ones. What it raises ends those of
        these that have not ended.
        """
        ...


@runtime_checkable
class FormModel(RunnableModel, Protocol):
    """A loaded handler: it wants forms (:mod:`salver.words.handlers`), and may answer them in pieces.

    One that answers when it likes (``workers.is_async``) is a :class:`StreamModel` of forms instead.
    """

    def reply(
        self, requests: Sequence[InferRequest], send: Callable[[int, Answer], None]
    ) -> Sequence[Answer]:
        """To each request its answer, in their order; of one that was answered in pieces the last one.

        Answers are made by :func:`salver.words.handlers.as_answer`; a failure of the handler is an answer
        too. What
        it raises fails all of them.

        Where batches are continuous (``workers.is_continuous``) a run is a step. A request whose answer says
        ``again`` has got a piece by it, and takes part in the next step: there it has its id and no form, and
        stands before those that are new. If it is missing there, its caller is gone, and it is forgotten.

        Args:
            requests: An id, if there is one, is no other's that runs; those of steps have one.
            send: Takes a piece that comes before the answer, and whose it is (an index). Any thread may call
                it while this runs; without effect once nobody listens.
        """
        ...


@runtime_checkable
class ThriftyModel(Protocol):
    """A loaded model that keeps something for its next run."""

    def on_idle(self) -> None:
        """Nothing has been asked for some seconds: what it keeps may go. It must not raise."""
        ...


class StepModel(Protocol):
    """A loaded model that carries sequences of tokens on, a step at a time.

    Each sequence has a state slot, a number from 0 to ``steps.max_sequences`` - 1. All calls but
    ``close`` come from one thread. Scores are FP32, one for each token of the vocabulary, of the token that
    follows; softmax of them is the model's distribution.
    """

    def prefill(self, slot: int, tokens: Array) -> Array:
        """Read a piece (INT64 ``[n]``, n ≥ 1) of a sequence's prompt, after what the slot has read
        already; scores ``[vocabulary]``. What it raises ends this sequence alone.
        """
        ...

    def step(self, slots: Array, tokens: Array) -> Array:
        """Carry several sequences on by one token each (both INT64 ``[n]``, no slot twice); scores
        ``[n, vocabulary]``. A row of NaN ends its sequence alone; what ``step`` raises ends all of them.
        """
        ...

    def release(self, slot: int) -> None:
        """The slot's sequence is over, or given up; what comes next in the slot is a new one."""
        ...

    def close(self) -> None:
        """Give memory, threads and files back. Called once, after everything else."""
        ...


class Backend(Protocol):
    """Recognises and loads the artefacts of one framework.

    Attributes:
        name: As in ``backend = "onnx"``.
        extra: The pip extra that brings the framework.
        modules: Import names it needs, for ``salver doctor``; checked without importing.
        traits: See :class:`Traits`.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    traits: Traits

    def recognise(self, path: Path) -> str | None:
        """The format's name (``onnx``, ``savedmodel``, …) if this path, a file or a folder, is an
        artefact of this backend, judged by its *content* (a bounded look, never by executing
        or importing anything); else None. Must not raise for any readable path.
        """
        ...

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Load it. Blocking; called off the event loop, in the process that will run it.

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


#: Looks at a file or folder, briefly, by content; None where no backend knows it.
Recogniser = Callable[[Path], ArtifactKind | None]

#: Given a backend and a format: can loading or running such an artefact touch files, the network or run code?
TouchesMachine = Callable[[str, str], bool]


@runtime_checkable
class StepBackend(Protocol):
    """What a :class:`Backend` has besides, if it can load step models of its own kind.

    Others' models are stepped if they take and give states (:mod:`salver.backends.stateful`).
    """

    def load_steps(self, manifest: Manifest, options: LoadOptions) -> StepModel:
        """As ``load``, for a manifest whose ``config.steps.vocabulary`` is set."""
        ...


@runtime_checkable
class PartialBackend(Protocol):
    """What a :class:`Backend` has besides, if another one runs some of its model's signatures.

    Attributes:
        rest: What the other backend loads; None = all signatures are this one's.
        runs: Which signatures this one runs, the first one first.
    """

    rest: Manifest | None
    runs: Sequence[bool]


@runtime_checkable
class CountingBackend(Protocol):
    """What a :class:`Backend` has besides, if it can tell what a run costs, for ``salver tune``."""

    def cost(self, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
        """What a run on inputs of these shapes, of one row, costs. What cannot be counted is said in the
        notes; it raises nothing.
        """
        ...

    def product(self, int8: bool) -> tuple[Callable[[], object], float]:
        """A product of matrices on the calling thread alone, by the framework's own kernels, and how many
        operations it is; of 8-bit integers, or FP32.
        """
        ...
