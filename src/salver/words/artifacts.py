"""What lies on disk, and how does its owner want it served?

:class:`Manifest` describes one version found in a repository; :class:`ModelConfig` is what
``salver.toml`` (or a translated ``config.pbtxt``) says about a model. Unknown fields are
refused by name. Nothing here reads a file.
"""

import builtins
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from salver.words.handlers import Workers
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)")
_UNIT_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_NO_FILES: Final[Mapping[str, bytes]] = {}


def milliseconds(text: str) -> float:
    """Of a time as people write it.

    Raises:
        ValueError: it is no number above 0 with a unit.

    >>> milliseconds("50ms"), milliseconds(".25 s")
    (50.0, 250.0)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is no time above 0 with a unit, such as 50ms or 0.2s")
    return float(match[1]) * _UNIT_MS[match[2]]


#: Rules by which a queue becomes batches; kernel/engine/rules.py says what each does.
Policy = Literal[
    "auto", "drain", "window", "half-floor", "newest-feasible", "drop-then-drain", "aimd", "learned"
]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner wants of a model, instead of knobs. At most one of the three.

    Attributes:
        latency_p99_ms: 99 % of the answers come within this; requests that cannot are refused
            early. 0 = no such wish.
        deadline_ms: As ``latency_p99_ms``, for requests that bring no deadline of their own only.
        throughput: As many answers as possible, however long each takes.
    """

    latency_p99_ms: float = 0.0
    deadline_ms: float = 0.0
    throughput: bool = False


class Priorities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How levels of urgency share a model; a run that has begun is never interrupted.

    Attributes:
        levels: How many there are; 1 is the highest.
        default: Level of a request that names none; 0 = the middle one.
        mode: ``strict`` serves a level only when none above it waits; ``weighted`` gives each its share.
        weights: Shares of the levels in weighted mode, highest first; empty = each twice the next.
        max_passes: Batches that may pass over a waiting level in strict mode before one of its
            requests goes first; 0 = no bound.
    """

    levels: int = 1
    default: int = 0
    mode: Literal["strict", "weighted"] = "strict"
    weights: tuple[float, ...] = ()
    max_passes: int = 16


class QueuePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long, and how many, requests of one level may wait.

    Attributes:
        max_size: Requests that wait; one more is refused, whoever else waits. 0 = only
            ``batching.max_queue`` counts.
        timeout_ms: Time to wait for a run, which it does not limit; 0 = any.
        timeout_action: What becomes of a request past it: it is refused, or it goes behind all others of its
            level, and is served when none of those waits.
        allow_timeout_override: A request's own ``timeout`` may make it shorter.
    """

    max_size: int = 0
    timeout_ms: float = 0.0
    timeout_action: Literal["reject", "delay"] = "reject"
    allow_timeout_override: bool = False


class Queue(QueuePolicy, frozen=True, forbid_unknown_fields=True):
    """Triton's queue policy: one for every level, unless the level has its own.

    Where a model has it, a request's ``timeout`` is no deadline: it has the effect that the policy says. A
    caller's deadline is kept all the same.

    Attributes:
        levels: Policies of levels that have their own.
    """

    levels: dict[int, QueuePolicy] = {}

    def of(self, level: int) -> QueuePolicy:
        """The policy of a level."""
        return self.levels.get(level, self)


class Fairness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tenants share a model (deficit round robin over their queues).

    Attributes:
        enabled: False puts all tenants into one queue.
        weights: Share of a tenant; others have 1.
        max_tenants: Queues at one time; tenants beyond that share one.
    """

    enabled: bool = True
    weights: dict[str, float] = {}
    max_tenants: int = 256


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Large batches of work that can wait, run with capacity that nobody else wants.

    Attributes:
        max_rows: Most rows in one run of bulk work; 0 = as ``batching.max_rows``.
        max_run_ms: Longest expected run of bulk work, since those that come meanwhile wait for its
            end; 0 = half of the objective where there is one, else no limit.
    """

    max_rows: int = 0
    max_run_ms: float = 0.0


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many requests may wait, adapted so that the wait stays near a target.

    Attributes:
        target_delay_ms: Wanted time from arrival to the start of the run; 0 = only ``batching.max_queue``.
        interval_ms: Over which the smallest delay is judged: one above the target is a standing queue.
    """

    target_delay_ms: float = 0.0
    interval_ms: float = 100.0


class Learned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the policy ``learned`` weighs: a caller's time against energy.

    The cost of serving is ``latency_weight`` times the mean latency in milliseconds plus ``energy_weight``
    times the power in watts.

    Attributes:
        method: ``exact`` solves for the batch law; ``trained`` learns in the simulator and from live runs.
        energy_weight: 0 = latency is all that counts; then draining is next to best.
        watts: What a busy instance takes; the energy of a run is this times its length, where the next
            two are not given.
        joules_per_row, joules_per_run: Energy of each row and of each run, where it was measured.
        max_wait_ms: Longest wait for company; 0 = four runs of a full batch.
    """

    method: Literal["exact", "trained"] = "exact"
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    watts: float = 10.0
    joules_per_row: float = 0.0
    joules_per_run: float = 0.0
    max_wait_ms: float = 0.0


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests share a run of the model.

    Attributes:
        enabled: False runs every request alone.
        has_rows: False = axis 0 is no batch dimension, even where it is free in every tensor.
        policy: The rule. ``auto``: with a latency objective half-floor below saturation and
            drop-then-drain above it; else window where ``max_delay_ms`` is set; else drain.
        max_rows: Most rows in one run.
        max_delay_ms: How long an idle instance may wait for a batch to fill; 0 = take what is
            there (drain-the-queue, the default).
        preferred_rows: Sizes that close a waiting batch early, ascending.
        max_queue: Most requests waiting; one more is refused as overloaded.
        max_queue_rows: Most rows waiting, likewise; 0 = only ``max_queue`` counts.
        max_request_rows: A request of more rows is refused; 0 = it is cut, and its answers joined.
        sizes: Rows that a run may have, ascending. A batch is filled up to the next of them with copies of
            a row that it has, which nobody sees in an answer. Empty = any.
        pad: Requests whose inputs differ in free extents may share a run: the smaller ones are filled up
            with their first element, and their answers are those of what was filled up.
        preserve_order: Answers go out in the order in which their requests came.
        learned: For the policy ``learned``.
    """

    enabled: bool = True
    policy: Policy = "auto"
    max_rows: int = 64
    max_delay_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    max_queue: int = 1024
    max_queue_rows: int = 0
    max_request_rows: int = 0
    sizes: tuple[int, ...] = ()
    pad: bool = False
    has_rows: bool = True
    preserve_order: bool = False
    learned: Learned = Learned()


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What instances take of resources that models share, where the server counts them.

    Attributes:
        count: Instances that this holds for.
        resources: What each holds while it runs, by the resource's name.
        priority: Of those who wait, an instance with 2 gets half as many turns as one with 1.
    """

    count: int = 1
    resources: dict[str, int] = {}
    priority: int = 1


class Instances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who runs it.

    Attributes:
        count: Runs at the same time; 0 = let the backend's traits decide.
        threads: Threads inside one run; 0 = let the backend's traits decide.
        runner: ``thread``, ``process`` (own host process) or ``auto`` (by the backend's traits).
        memory_limit_mb: Address-space limit of a host process; 0 = none.
        run_timeout_s: A run that takes longer hangs: its host process is killed and started again, and a
            model on threads is not ready until the run ends. 0 = learned: ten minutes at first, then a
            hundred times the longest run, and at least a minute.
        reruns: Requests that were under way when their host process died run once more, alone. None = as the
            backend has it: those of fixed graphs do, those of arbitrary Python code do not.
        rate_limits: What the first instances, group by group, take of resources that models share; the
            others take nothing.
    """

    count: int = 0
    threads: int = 0
    runner: Literal["auto", "thread", "process"] = "auto"
    memory_limit_mb: int = 0
    run_timeout_s: float = 0.0
    reruns: bool | None = None
    rate_limits: tuple[RateLimit, ...] = ()


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which versions are wanted: the ``latest`` n, or ``all``, or the ``specific`` ones."""

    latest: int = 1
    all: bool = False
    specific: tuple[str, ...] = ()


class WarmupInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an input holds in a warm-up sample.

    Attributes:
        shape: Of one row, all extents known; a batched model's batch dimension comes in front by itself.
        values: Random numbers are below 1, or whole ones below 2. Texts are empty in either case.
        file: Raw elements in the folder ``warmup`` beside the versions, in place of ``values``.
    """

    datatype: DataType
    shape: tuple[int, ...]
    values: Literal["zeros", "random"] = "zeros"
    file: str = ""


class WarmupSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request that each instance runs before a version takes traffic, or the load fails.

    Attributes:
        name: For messages.
        rows: Copies of the one row that the inputs tell, for a batched model.
        rounds: How often it is run.
    """

    inputs: dict[str, WarmupInput]
    name: str = ""
    rows: int = 1
    rounds: int = 1


class Warmup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that run before a version takes traffic.

    Attributes:
        rows: Batch sizes to try; free dimensions take ``free_dim``.
        rounds: Runs of each size.
        file: An Open Inference JSON request beside the model; replaces generated zeros.
        samples: They, too, replace generated zeros.
        replays: How often the records are run that a SavedModel brings, which do, too; 0 = not.
    """

    rows: tuple[int, ...] = (1,)
    rounds: int = 3
    free_dim: int = 1
    file: str = ""
    samples: tuple[WarmupSample, ...] = ()
    replays: int = 1


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model that answers token by token is stepped (continuous batching).

    Attributes:
        vocabulary: ``bytes``, or a file beside the artefact: a JSON list of the tokens' texts by id.
            Empty = the model is not step-wise.
        end_token: Id of the token that ends a sequence; -1 = none does.
        max_sequences: State slots: sequences under way at one time.
        max_context: Most tokens of one sequence, prompt and answer together.
        max_tokens: Most tokens of all sequences under way together; 0 = as the slots allow.
        max_chunk: Most prompt tokens read in one step.
    """

    vocabulary: str = ""
    end_token: int = -1
    max_sequences: int = 16
    max_context: int = 2048
    max_tokens: int = 0
    max_chunk: int = 256


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model of texts is spoken to by OpenAI's routes; what is empty is as the server has it.

    Attributes:
        template: A file beside the artefact: makes prompts of messages.
        tokenizer: A folder beside the artefact, as Hugging Face's libraries write it: its template, if it
            has one, and its tokens, which are counted where the model does not count them.
        tools: How the model writes calls of tools.
    """

    template: str = ""
    tokenizer: str = ""
    tools: Literal["", "llama3", "mistral"] = ""


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input of a model with sequences that the server fills in, and callers do not see.

    Attributes:
        kind: ``start`` and ``end``: the request is the first or last of its sequence. ``ready``: the row
            holds a request at all. ``corrid``: the sequence's id.
        datatype: INT32, FP32 or BOOL; of an id an integer of 32 or 64 bits, or BYTES.
        values: For no and yes; without effect for an id.
    """

    name: str
    kind: Literal["start", "end", "ready", "corrid"]
    datatype: DataType = DataType.INT32
    values: tuple[float, float] = (0, 1)


class KeptState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that the server keeps for each sequence: the output of one request, the input of the next.

    Attributes:
        shape: Without the batch dimension; -1 where any extent is fine.
        initial_shape: Of what the first request of a sequence is given; empty = ``shape``, with 1 for -1.
        initial_file: Its raw bytes, a file in the folder ``initial_state`` of the model; empty = zeros.
        content: Of that file.
    """

    input: str
    output: str
    datatype: DataType
    shape: tuple[int, ...]
    initial_shape: tuple[int, ...] = ()
    initial_file: str = ""
    content: bytes = b""


class Sequences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that belong together, in their order, for models that remember what came before.

    Attributes:
        strategy: ``direct``: each sequence has its own row of its instance's runs. ``oldest``: the requests
            that have waited longest share a run, in any rows. Empty = the model has no sequences.
        candidates: Sequences under way at one time on each instance, for ``oldest``; 0 = as many as the rows
            of a run. More wait for their turn.
        max_delay_ms: How long a run may wait to fill.
        preferred_rows: Sizes that end this wait, for ``oldest``.
        min_fill: Share of the rows that ends this wait, for ``direct``; 0 = there is no wait.
        idle_ms: A sequence of which nothing is heard for so long is over.
        controls: Inputs that the server fills in.
        states: Tensors that the server keeps for each sequence.
        iterative: One request is one sequence, which lasts as long as the model asks for it once more.
    """

    strategy: Literal["", "direct", "oldest"] = ""
    candidates: int = 0
    max_delay_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    min_fill: float = 0.0
    idle_ms: float = 1000.0
    controls: tuple[Control, ...] = ()
    states: tuple[KeptState, ...] = ()
    iterative: bool = False


class Reshape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes that the model itself takes and gives, by tensor; callers see those of its configuration.

    Both have as many elements, and as many free extents, which stand for the same numbers in the same order.
    """

    inputs: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, tuple[int, ...]] = {}


class BatchInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input that callers do not see: what a run holds of each request's part in an input.

    Attributes:
        kind: ``element_count`` and ``accumulated_element_count`` (one number a request), the latter
            ``…_with_zero`` in front; ``max_element_count_as_shape`` (as long as the largest part, of zeros);
            ``item_shape`` (the shape of each row, a row each) and ``item_shape_flatten`` (end to end).
        target: Its name.
        datatype: INT32 or FP32.
        source: The input that it tells of.
    """

    kind: Literal[
        "element_count",
        "accumulated_element_count",
        "accumulated_element_count_with_zero",
        "max_element_count_as_shape",
        "item_shape",
        "item_shape_flatten",
    ]
    target: str
    datatype: DataType
    source: str


class Ragged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests of different shapes share a run, unpadded.

    Attributes:
        inputs: Given to the model flat, all requests' elements one after the other.
        extra: What the model is told besides.
        scatter: Outputs that lie so, too, with the input whose shape cuts them: their free extents are that
            input's in the same place.
    """

    inputs: tuple[str, ...] = ()
    extra: tuple[BatchInput, ...] = ()
    scatter: dict[str, str] = {}


class EnsembleStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model's part in an ensemble. It has its turn when all tensors that it reads are there.

    Attributes:
        version: Of the model; empty = the newest that is ready.
        inputs: The ensemble's tensor for each of the model's inputs.
        outputs: The ensemble's tensor for each of the model's outputs that are wanted.
        when: A BOOL tensor of the ensemble: the step runs only if one of its elements is true.
        unless: The same, of a step that runs only if none is true.
    """

    model: str = ""
    version: str = ""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    when: str = ""
    unless: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The ensemble's tensors that it needs, each once."""
        guards = (name for name in (self.when, self.unless) if name)
        return tuple(dict.fromkeys((*self.inputs.values(), *guards)))


class Ensemble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that are asked for one answer together; tensors that pass between them have names.

    Attributes:
        steps: In any order; none = this is no ensemble.
        max_inflight_requests: Of each step at a time, of all requests together; 0 = no bound.
    """

    steps: tuple[EnsembleStep, ...] = ()
    max_inflight_requests: int = 0

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """Names and versions of the models that it needs, each once."""
        return tuple(dict.fromkeys((step.model, step.version) for step in self.steps))


class Logging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests of a model are written down with their answers, and where.

    Attributes:
        rate: Share of requests, from 0 for none to 1 for all.
        prefix: Beginning of the files' names, in the folder that the server was given; empty = the model's.
        max_mb: Size of a file from which on the next one is begun.
        files: Most of them; the oldest goes when there is one more.
    """

    rate: float = 0.0
    prefix: str = ""
    max_mb: int = 64
    files: int = 16


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an owner may say about a model; the defaults are right for most.

    Attributes:
        backend: A backend's name; empty = recognised by content.
        inputs, outputs: Override what the artefact says of itself, or stand in where it is silent.
        only_outputs: Outputs that are not among ``outputs`` are not given.
        timeout_ms: Deadline of a request that brings none; 0 = none.
        labels: Names for versions, by which callers may ask; each with the version that it means.
        default_label: Which of them requests mean that name no version; empty = the newest version.
        queue: None = nothing but ``batching.max_queue`` and deadlines limits how long requests wait.
        objective: Chooses batching, instances and admission; what is set elsewhere stays as it is set.
        response_cache: Equal requests are answered from the server's cache, where it has one.
        workers: Of a handler: how it is run; None = as its archive says.
        options: Handed to the backend, which refuses what it does not know.
    """

    backend: str = ""
    filename: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    only_outputs: bool = False
    batching: Batching = Batching()
    instances: Instances = Instances()
    versions: Versions = Versions()
    labels: dict[str, str] = {}
    default_label: str = ""
    warmup: Warmup = Warmup()
    timeout_ms: float = 0.0
    objective: Objective = Objective()
    priorities: Priorities = Priorities()
    queue: Queue | None = None
    fairness: Fairness = Fairness()
    bulk: Bulk = Bulk()
    limit: Limit = Limit()
    steps: Steps = Steps()
    chat: Chat = Chat()
    sequences: Sequences = Sequences()
    reshape: Reshape = Reshape()
    response_cache: bool = False
    logging: Logging = Logging()
    ragged: Ragged = Ragged()
    ensemble: Ensemble = Ensemble()
    workers: Workers | None = None
    options: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True):
    """One version found in a repository, whole and recognised.

    Attributes:
        path: The artefact: a file, or a folder for formats that are folders.
        format: What it was recognised as (``onnx``, ``torchscript``, ``savedmodel``, …).
        backend: The backend that runs it.
        fingerprint: Changes when the files change; equal fingerprints need no reload.
        body: Changes when anything changes but the number of instances, and which versions are wanted and
            named: equal bodies need no reload, either; empty = not known.
        bytes: Size on disk.
        problem: Why it cannot be served, or empty; such a version is listed, never loaded.
        is_unreadable: The problem is the model's configuration: nothing is known of what its owner wants.
        notices: What was said in its configuration and has no effect yet.
        triton: The owner's ``config.pbtxt`` as a serialised ModelConfig; empty = there is none.
        code: The program that runs it, of a backend that is one; None = the artefact says it all.
        home: The file or folder that is the model's, with all its versions.
        columns: Of a model of a table, its inputs by the names of columns, as MLflow keeps them.
        brought: What of it came by request, so that its operator has not chosen what runs.
    """

    id: ModelId
    path: Path
    format: str
    backend: str
    config: ModelConfig = ModelConfig()
    fingerprint: str = ""
    body: str = ""
    bytes: int = 0
    problem: str = ""
    notices: tuple[str, ...] = ()
    triton: builtins.bytes = b""
    is_unreadable: bool = False
    home: Path = Path()
    code: Path | None = None
    columns: tuple[TensorSpec, ...] = ()
    brought: Literal["", "files", "path", "config"] = ""


class LoadOrder(msgspec.Struct, frozen=True):
    """What a request to load a model brings in place of the model's own.

    Attributes:
        config: A Triton model configuration as JSON, in place of the file; empty = the file.
        files: Contents by path (``1/model.onnx``), in place of the model's folder; empty = the folder.
        folder: A folder on this machine, in place of the model's own; empty = its own.
    """

    config: str = ""
    files: Mapping[str, bytes] = _NO_FILES
    folder: str = ""


class Cost(msgspec.Struct, frozen=True):
    """What a run of a model costs by its nature, on any machine.

    Attributes:
        flops_a_row: Floating-point operations a row, a multiplication with its addition being two; 0 =
            unknown.
        weight_bytes: Read once a run, whatever its rows.
        bytes_a_row: Of a row's inputs and outputs. What passes between the layers may stay in caches, or
            never be written, and does not count.
        int8_ops_a_row: As ``flops_a_row``, in products of 8-bit integers.
        notes: What could not be counted, in words.
    """

    flops_a_row: float = 0.0
    weight_bytes: float = 0.0
    bytes_a_row: float = 0.0
    int8_ops_a_row: float = 0.0
    notes: tuple[str, ...] = ()
