"""Model manifests and model configuration.

:class:`Manifest` describes one version found in a repository; :class:`ModelConfig` holds what ``salver.toml``
(or a translated ``config.pbtxt``) says about a model. Unknown fields are rejected by name. Nothing here reads
a file.
"""

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from salver.words.handlers import Workers
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

_NO_FILES: Final[Mapping[str, bytes]] = {}

#: Rules that form batches from a queue; see kernel/engine/rules.py.
Policy = Literal[
    "auto", "drain", "window", "half-floor", "newest-feasible", "drop-then-drain", "aimd", "learned"
]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Serving objective of a model, used to derive its settings. At most one may be set.

    Attributes:
        latency_p99_ms: Target for the 99th percentile of latency; requests that cannot meet it are rejected
            early. 0 = no objective.
        deadline_ms: Like ``latency_p99_ms``, but only for requests without a deadline of their own.
        throughput: Maximise throughput regardless of latency.
        rate: Rows per second for which the time is to hold; a server refuses to load a model if it could not
            keep this beside the others' promises. 0 = no rate is promised.
    """

    latency_p99_ms: float = 0.0
    deadline_ms: float = 0.0
    throughput: bool = False
    rate: float = 0.0


class Priorities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Priority levels of a model's requests. A run that has started is never interrupted.

    Attributes:
        levels: Number of levels; 1 is the highest.
        default: Level of a request that names none; 0 = the middle one.
        mode: ``strict`` serves a level only when no higher level is waiting; ``weighted`` gives each level
            its share.
        weights: Shares of the levels in weighted mode, highest first; empty = each level has twice the share
            of the next.
        max_passes: In strict mode, number of batches that may pass over a waiting level before one of its
            requests goes first; 0 = no limit.
    """

    levels: int = 1
    default: int = 0
    mode: Literal["strict", "weighted"] = "strict"
    weights: tuple[float, ...] = ()
    max_passes: int = 16


class QueuePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on how long and how many requests of one level may wait.

    Attributes:
        max_size: Maximum number of waiting requests; more are rejected. 0 = only ``batching.max_queue``
            applies.
        timeout_ms: Maximum time to wait for a run to start; 0 = no limit.
        timeout_action: What happens after the timeout: the request is rejected, or it moves behind all others
            of its level and is served when none of those is waiting.
        allow_timeout_override: Whether a request's own ``timeout`` may shorten the wait.
    """

    max_size: int = 0
    timeout_ms: float = 0.0
    timeout_action: Literal["reject", "delay"] = "reject"
    allow_timeout_override: bool = False


class Queue(QueuePolicy, frozen=True, forbid_unknown_fields=True):
    """Triton's queue policy: one for all levels, unless a level has its own.

    With a queue policy, a request's ``timeout`` is not a deadline: it takes effect as the policy says. The
    caller's deadline still applies.

    Attributes:
        levels: Policies of individual levels.
    """

    levels: dict[int, QueuePolicy] = {}

    def of(self, level: int) -> QueuePolicy:
        """Return the policy of a level."""
        return self.levels.get(level, self)


class Fairness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fair sharing of a model between tenants (deficit round robin over their queues).

    Attributes:
        enabled: False puts all tenants into one queue.
        weights: Weight by tenant; tenants not listed have 1.
        max_tenants: Maximum number of queues at one time; further tenants share one.
    """

    enabled: bool = True
    weights: dict[str, float] = {}
    max_tenants: int = 256


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bulk work: large batches that can wait and use only spare capacity.

    Attributes:
        max_rows: Maximum rows in one bulk run; 0 = ``batching.max_rows``.
        max_run_ms: Maximum expected duration of a bulk run, because requests that arrive meanwhile wait for
            its end; 0 = half of the latency objective if there is one, else no limit.
    """

    max_rows: int = 0
    max_run_ms: float = 0.0


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Adaptive limit on waiting requests that keeps the wait near a target.

    Attributes:
        target_delay_ms: Target time from arrival to the start of the run; 0 = only ``batching.max_queue``
            applies.
        interval_ms: Interval over which the smallest delay is measured; a minimum above the target means a
            standing queue.
    """

    target_delay_ms: float = 0.0
    interval_ms: float = 100.0


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Place of a model in a server with a memory budget; without one, every model stays in memory.

    Attributes:
        residence: ``eager`` = loaded at the start if there is room; ``lazy`` = loaded by its first request;
            ``pinned`` = loaded at the start, and never unloaded to make room.
        idle_s: Seconds without a request after which it is unloaded; 0 = it stays until others need room.
        min_s: Seconds for which it stays at least once it is loaded.
        priority: Weight of its value when room is needed.
        max_mb: MiB that it may take; a version that takes more is unloaded and refused. 0 = the whole budget.
        share_mb: MiB that others never take from it: while it takes no more, they do not push it out.
        gpu_max_mb: MiB that its framework may take on a GPU for each instance; 0 = no limit.
        gpu_share_mb: As ``share_mb``, of the memory of each of its GPUs.
        tenant: Owner with a share of the budget (``[server.tenants.memory]``); empty = none.
    """

    residence: Literal["eager", "lazy", "pinned"] = "eager"
    idle_s: float = 0.0
    min_s: float = 1.0
    priority: float = 1.0
    max_mb: float = 0.0
    share_mb: float = 0.0
    gpu_max_mb: float = 0.0
    gpu_share_mb: float = 0.0
    tenant: str = ""


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Substitute for a model that cannot answer: one of model, version, constant, cached_s, refuse.

    Attributes:
        on: Causes: ``overload`` (it would be refused), ``deadline`` (it cannot be met),
            ``failure`` (the model raised, its host died, or it hangs).
        model: Another model of the server, with the same inputs and outputs.
        version: Its version; empty = the one that the server would choose. ``previous`` without a model = the
            newest version below this one that is ready.
        constant: Values of a row by output.
        cached_s: Age in seconds up to which an answer from the response cache will do, even an expired one.
        refuse: What callers are told, instead of the model's own error; ends the chain.
        retry_after_s: With ``refuse``: seconds after which callers may try again.
    """

    on: tuple[Literal["overload", "deadline", "failure"], ...] = ("overload", "deadline", "failure")
    model: str = ""
    version: str = ""
    constant: dict[str, Any] = {}
    cached_s: float = 0.0
    refuse: str = ""
    retry_after_s: float = 1.0


class LearnedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the policy ``learned``: latency against energy.

    The cost of serving is ``latency_weight`` times the mean latency in milliseconds plus ``energy_weight``
    times the power in watts.

    Attributes:
        method: ``exact`` solves for the measured batch law; ``trained`` learns in the simulator and from live
            runs.
        energy_weight: 0 = only latency counts, for which draining the queue is nearly optimal.
        watts: Power of a busy instance; the energy of a run is this times its duration, unless the next two
            are given.
        joules_per_row, joules_per_run: Measured energy of a row and of a run.
        max_wait_ms: Maximum wait for a batch to fill; 0 = the time of four full batches.
    """

    method: Literal["exact", "trained"] = "exact"
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    watts: float = 10.0
    joules_per_row: float = 0.0
    joules_per_run: float = 0.0
    max_wait_ms: float = 0.0


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batching: how requests are combined into runs of the model.

    Attributes:
        enabled: False runs every request alone.
        has_rows: False = axis 0 is not a batch dimension, even if it is free in every tensor.
        policy: The batching rule. ``auto``: with a latency objective, half-floor below saturation and
            drop-then-drain above it; otherwise window if ``max_delay_ms`` is set, else drain.
        max_rows: Maximum rows in one run.
        max_delay_ms: How long an idle instance may wait for a batch to fill; 0 = take what is waiting (drain
            the queue, the default).
        preferred_rows: Batch sizes that end the wait early, ascending.
        max_queue: Maximum number of waiting requests; more are rejected as overloaded.
        max_queue_rows: Maximum number of waiting rows; 0 = only ``max_queue`` applies.
        max_request_rows: Maximum rows of one request; larger ones are rejected. 0 = larger requests are split
            and their answers joined.
        sizes: Allowed numbers of rows in a run, ascending. A batch is padded to the next size with copies of
            one of its rows; their answers are discarded. Empty = any.
        pad: Requests whose inputs differ in free extents may share a run: smaller inputs are padded with
            their first element, and the answers are those of the padded inputs.
        preserve_order: Send answers in the order in which the requests arrived.
        learned: Settings of the policy ``learned``.
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
    learned: LearnedPolicy = LearnedPolicy()

    @property
    def largest_run(self) -> int:
        """Most rows in one run; 1 without batching."""
        if self.enabled:
            return self.max_rows
        return 1


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Resources that instances take from a pool shared by models, counted by the server.

    Attributes:
        count: Number of instances with this limit.
        resources: Amount of each resource that an instance holds while it runs, by name.
        priority: An instance with priority 2 gets half as many turns as one with 1.
    """

    count: int = 1
    resources: dict[str, int] = {}
    priority: int = 1


class Instances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Instances of a model and how they run.

    Attributes:
        count: Number of concurrent runs; 0 = decided by the backend's traits.
        max_count: Most replicas on a cluster (``--engine``), which are added under load; 0 = ``count``.
        scale_down_s: Seconds for which a replica must not have been needed before it is stopped.
        threads: Threads inside one run; 0 = decided by the backend's traits.
        runner: ``thread``, ``process`` (a host process of its own) or ``auto`` (by the backend's traits).
        memory_limit_mb: Address-space limit of a host process; 0 = none.
        run_timeout_s: A run that takes longer counts as hanging: its host process is killed and restarted; a
            model on threads is not ready until the run ends. 0 = learned: ten minutes at first, then a
            hundred times the longest run, at least one minute.
        reruns: Whether requests that were running when their host process died are run once more, alone. None
            = decided by the backend: yes for fixed graphs, no for arbitrary Python code.
        forks: Whether host processes may be forks of a process that has imported their framework.
        rate_limits: Shared resources that instances take, for consecutive groups of instances; the remaining
            instances take none.
        cpus: Cores, by number, of the host processes in which the model runs then. Empty = any.
        cpu_quota: Cores' worth of time that each host process may use, for instance 0.5, by a control group
            of its own; the model runs in host processes then. 0 = no limit.
        gpus: GPUs onto which instances load, in turn, in host processes; numbered as CUDA does. Empty = none.
    """

    count: int = 0
    max_count: int = 0
    scale_down_s: float = 60.0
    threads: int = 0
    runner: Literal["auto", "thread", "process"] = "auto"
    memory_limit_mb: int = 0
    run_timeout_s: float = 0.0
    reruns: bool | None = None
    forks: bool = True
    rate_limits: tuple[RateLimit, ...] = ()
    cpus: tuple[int, ...] = ()
    cpu_quota: float = 0.0
    gpus: tuple[int, ...] = ()


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Python environment of a model's host processes.

    Attributes:
        path: ``requirements.txt``, ``uv.lock``, MLflow's ``python_env.yaml``, an archive of an environment,
            or the folder of an existing one; absolute, or in the model's folder. Empty = the server's own.
        python: Python of which an environment is made: a version such as 3.13, or the path of an interpreter;
            empty = that of the file, or else the server's own.
    """

    path: str = ""
    python: str = ""


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Version policy: the ``latest`` n, ``all``, or the ``specific`` versions."""

    latest: int = 1
    all: bool = False
    specific: tuple[str, ...] = ()


class WarmupInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Value of one input in a warm-up sample.

    Attributes:
        shape: Shape of one row, without -1; for a batched model the batch dimension is added in front.
        values: Random floats are below 1, random integers below 2. Strings are always empty.
        file: File with raw elements in the folder ``warmup`` beside the versions; replaces ``values``.
    """

    datatype: DataType
    shape: tuple[int, ...]
    values: Literal["zeros", "random"] = "zeros"
    file: str = ""


class WarmupSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Warm-up request that each instance runs before a version takes traffic; if it fails, the load fails.

    Attributes:
        name: Shown in messages.
        rows: For a batched model, copies of the row that the inputs describe.
        rounds: Number of runs.
    """

    inputs: dict[str, WarmupInput]
    name: str = ""
    rows: int = 1
    rounds: int = 1


class Warmup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that run before a version takes traffic.

    Attributes:
        rows: Batch sizes to run; free dimensions take the extent ``free_dim``.
        rounds: Number of runs of each size.
        file: Open Inference JSON request in a file beside the model; replaces generated zeros.
        samples: Explicit samples; they also replace generated zeros.
        replays: Runs of the warm-up records in a SavedModel, which also replace zeros; 0 = none.
    """

    rows: tuple[int, ...] = (1,)
    rounds: int = 3
    free_dim: int = 1
    file: str = ""
    samples: tuple[WarmupSample, ...] = ()
    replays: int = 1


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Continuous batching of a model that generates token by token.

    Attributes:
        vocabulary: ``bytes``, or a file beside the artefact: a JSON list of token texts by id. Empty = the
            model is not step-wise.
        end_token: Id of the token that ends a sequence; -1 = none.
        max_sequences: State slots: maximum number of active sequences.
        max_context: Maximum tokens of one sequence, prompt and answer together.
        max_tokens: Maximum tokens of all active sequences together; 0 = limited only by the slots.
        max_chunk: Maximum prompt tokens processed in one step.
        prefix_block: Tokens of a part of a prompt whose state a cache of prefixes keeps; 0 = none.
    """

    vocabulary: str = ""
    end_token: int = -1
    max_sequences: int = 16
    max_context: int = 2048
    max_tokens: int = 0
    max_chunk: int = 256
    prefix_block: int = 32


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chat settings of a text model on OpenAI's routes; empty fields take the server's defaults.

    Attributes:
        template: Chat template, a file beside the artefact that turns messages into a prompt.
        tokenizer: Folder beside the artefact in Hugging Face's format. Supplies the chat template, if it has
            one, and counts tokens if the model does not.
        tools: Format in which the model writes tool calls.
    """

    template: str = ""
    tokenizer: str = ""
    tools: Literal["", "llama3", "mistral"] = ""


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Control input of a model with sequences: filled in by the server, hidden from callers.

    Attributes:
        kind: ``start`` and ``end``: the request is the first or last of its sequence. ``ready``: the row
            holds a request. ``corrid``: the sequence's id.
        datatype: INT32, FP32 or BOOL; for an id a 32-bit or 64-bit integer, or BYTES.
        values: Values for false and true; ignored for an id.
    """

    name: str
    kind: Literal["start", "end", "ready", "corrid"]
    datatype: DataType = DataType.INT32
    values: tuple[float, float] = (0, 1)


class SequenceState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tensor that the server keeps for each sequence: an output of one request, an input of the next.

    Attributes:
        shape: Shape without the batch dimension; -1 = any extent.
        initial_shape: Shape for the first request of a sequence; empty = ``shape`` with 1 for -1.
        initial_file: File with its raw bytes in the model's folder ``initial_state``; empty = zeros.
        content: Content of that file.
    """

    input: str
    output: str
    datatype: DataType
    shape: tuple[int, ...]
    initial_shape: tuple[int, ...] = ()
    initial_file: str = ""
    content: bytes = b""


class Sequences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sequence batching: related requests that a stateful model receives in order.

    Attributes:
        strategy: ``direct``: each sequence has its own row of its instance's runs. ``oldest``: the requests
            that have waited longest share a run, in any row. Empty = the model has no sequences.
        candidates: Maximum active sequences per instance, for ``oldest``; 0 = the rows of a run. Further
            sequences wait.
        max_delay_ms: Maximum wait for a run to fill.
        preferred_rows: Batch sizes that end this wait early, for ``oldest``.
        min_fill: Fraction of the rows that ends this wait early, for ``direct``; 0 = no wait.
        idle_ms: A sequence without requests for this long ends.
        controls: Inputs that the server fills in.
        states: Tensors that the server keeps for each sequence.
        iterative: One request is one sequence; it runs again for as long as the model asks for it.
    """

    strategy: Literal["", "direct", "oldest"] = ""
    candidates: int = 0
    max_delay_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    min_fill: float = 0.0
    idle_ms: float = 1000.0
    controls: tuple[Control, ...] = ()
    states: tuple[SequenceState, ...] = ()
    iterative: bool = False


class Reshape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mapping between the shapes that the model uses and those that callers see, by tensor.

    Both shapes have equally many elements, and equally many free extents with the same values in the same
    order.
    """

    inputs: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, tuple[int, ...]] = {}


class BatchInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input hidden from callers that describes each request's part of another input in a run.

    Attributes:
        kind: ``element_count`` and ``accumulated_element_count`` (one number a request), the latter
            ``…_with_zero`` with a leading zero; ``max_element_count_as_shape`` (zeros, as long as the largest
            part); ``item_shape`` (the shape of each row, one row each) and ``item_shape_flatten`` (end to
            end).
        target: Name of this input.
        datatype: INT32 or FP32.
        source: Name of the input that it describes.
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
    """Ragged batching: requests of different shapes share a run without padding.

    Attributes:
        inputs: Inputs passed to the model flat, the elements of all requests one after the other.
        extra: Additional inputs that describe the parts.
        scatter: Flat outputs, each with the input whose shape splits it: free extents are those of that input
            at the same position.
    """

    inputs: tuple[str, ...] = ()
    extra: tuple[BatchInput, ...] = ()
    scatter: dict[str, str] = {}


class EnsembleStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model in an ensemble. A step runs when all the tensors that it reads are available.

    Attributes:
        version: Version of the model; empty = the newest that is ready.
        inputs: The ensemble's tensor for each of the model's inputs.
        outputs: The ensemble's tensor for each required output of the model.
        when: BOOL tensor of the ensemble: the step runs only if an element is true.
        unless: BOOL tensor of the ensemble: the step runs only if no element is true.
    """

    model: str = ""
    version: str = ""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    when: str = ""
    unless: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the ensemble's tensors that the step needs, without duplicates."""
        guards = (name for name in (self.when, self.unless) if name)
        return tuple(dict.fromkeys((*self.inputs.values(), *guards)))


class Ensemble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Graph of models that answer one request together, connected by named tensors.

    Attributes:
        steps: Steps in any order; none = not an ensemble.
        max_inflight_requests: Maximum concurrent requests of each step, over all requests; 0 = no limit.
    """

    steps: tuple[EnsembleStep, ...] = ()
    max_inflight_requests: int = 0

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """Return the names and versions of the models that it needs, without duplicates."""
        return tuple(dict.fromkeys((step.model, step.version) for step in self.steps))


class Logging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prediction log of a model: which requests and answers are recorded, and where.

    Attributes:
        rate: Fraction of requests that are recorded, 0 to 1.
        prefix: Prefix of file names in the server's log folder; empty = the model's name.
        max_mb: File size at which a new file is started.
        files: Maximum number of files; the oldest is deleted when there are more.
    """

    rate: float = 0.0
    prefix: str = ""
    max_mb: int = 64
    files: int = 16


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a model. The defaults suit most models.

    Attributes:
        backend: Name of the backend; empty = recognised by content.
        inputs, outputs: Override or complete the artefact's own signature.
        only_outputs: Return only the outputs listed in ``outputs``.
        timeout_ms: Deadline of requests that have none; 0 = none.
        labels: Version labels that callers may use, each with its version.
        default_label: Label for requests that name no version; empty = the newest version.
        queue: Queue policy; None = only ``batching.max_queue`` and deadlines limit waiting.
        objective: Derives batching, instances and admission; explicit settings take precedence.
        response_cache: Answer equal requests from the server's cache, if it has one.
        fallbacks: What answers in place of the model, tried in this order.
        workers: Worker settings of a handler; None = those of its archive.
        options: Options of the backend; it rejects unknown ones.
    """

    backend: str = ""
    filename: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    only_outputs: bool = False
    batching: Batching = Batching()
    instances: Instances = Instances()
    environment: Environment = Environment()
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
    memory: Memory = Memory()
    fallbacks: tuple[Fallback, ...] = ()
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
    """One complete, recognised version found in a repository.

    Attributes:
        path: The artefact, a file or a folder depending on the format.
        format: Recognised format (``onnx``, ``torchscript``, ``savedmodel``, …).
        backend: The backend that runs it.
        fingerprint: Changes when the files change; equal fingerprints need no reload.
        body: Fingerprint that ignores the number of instances, the version policy and labels: equal bodies
            need no reload either. Empty = unknown.
        bytes: Size on disk.
        problem: Why the version cannot be served, or empty; such a version is listed but never loaded.
        is_unreadable: The problem is that the model's configuration cannot be read.
        notices: Configuration settings that have no effect yet.
        foreign_config: The owner's configuration in another server's format, serialised; empty = none.
        code: Program that runs the model, for a backend that is a program; None = the artefact is complete.
        home: The model's file or folder, with all its versions.
        columns: For a tabular model, its inputs by column name, as MLflow stores them.
        brought: Parts that arrived with a request, so that the operator has not chosen what runs.
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
    foreign_config: builtins.bytes = b""
    is_unreadable: bool = False
    home: Path = Path()
    code: Path | None = None
    columns: tuple[TensorSpec, ...] = ()
    brought: Literal["", "files", "path", "config"] = ""


class LoadOrder(msgspec.Struct, frozen=True):
    """Content of a request to load a model, used in place of the model's own files.

    Attributes:
        config: Triton model configuration as JSON; empty = the model's file.
        files: File contents by path (``1/model.onnx``); empty = the model's folder.
        folder: Folder on this machine; empty = the model's own.
    """

    config: str = ""
    files: Mapping[str, bytes] = _NO_FILES
    folder: str = ""
