"""Parsing and checks of ``salver.toml``. Pure."""

import difflib
import itertools
import re
import tomllib
from pathlib import PurePath
from typing import Any, Final

import msgspec

from salver.kernel.repository.config import SERVER
from salver.lazy import lazy_imports
from salver.words.artifacts import (
    Batching,
    BatchInput,
    Bulk,
    Chat,
    Control,
    Ensemble,
    EnsembleStep,
    Environment,
    Fairness,
    Fallback,
    Instances,
    LearnedPolicy,
    Limit,
    Logging,
    Memory,
    ModelConfig,
    Objective,
    Priorities,
    Queue,
    Ragged,
    RateLimit,
    Reshape,
    Sequences,
    SequenceState,
    Steps,
    Versions,
    Warmup,
    WarmupSample,
)
from salver.words.errors import InvalidInput
from salver.words.handlers import Workers
from salver.words.messages import TensorSpec

with lazy_imports():
    from salver.kernel.repository import bounds
    from salver.kernel.repository.checks import ensemble, ragged, reshape, sequences


#: Keys by table, and by array of tables.
_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "": ModelConfig.__struct_fields__,
    "batching": Batching.__struct_fields__,
    "batching.learned": LearnedPolicy.__struct_fields__,
    "instances": Instances.__struct_fields__,
    "instances.rate_limits": RateLimit.__struct_fields__,
    "versions": Versions.__struct_fields__,
    "warmup": Warmup.__struct_fields__,
    "warmup.samples": WarmupSample.__struct_fields__,
    "steps": Steps.__struct_fields__,
    "chat": Chat.__struct_fields__,
    "sequences": Sequences.__struct_fields__,
    "sequences.controls": Control.__struct_fields__,
    "sequences.states": tuple(key for key in SequenceState.__struct_fields__ if key != "content"),
    "reshape": Reshape.__struct_fields__,
    "ragged": Ragged.__struct_fields__,
    "ragged.extra": BatchInput.__struct_fields__,
    "objective": ("latency_p99", "deadline", *Objective.__struct_fields__),
    "priorities": Priorities.__struct_fields__,
    "queue": Queue.__struct_fields__,
    "fairness": Fairness.__struct_fields__,
    "bulk": Bulk.__struct_fields__,
    "limit": Limit.__struct_fields__,
    "memory": Memory.__struct_fields__,
    "fallbacks": Fallback.__struct_fields__,
    "logging": Logging.__struct_fields__,
    "workers": Workers.__struct_fields__,
    "ensemble": Ensemble.__struct_fields__,
    "ensemble.steps": EnsembleStep.__struct_fields__,
    "inputs": TensorSpec.__struct_fields__,
    "outputs": TensorSpec.__struct_fields__,
}


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)")
_UNIT_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def milliseconds(text: str) -> float:
    """Convert a duration with a unit to milliseconds.

    Raises:
        ValueError: the text is not a number above 0 followed by a unit.

    >>> milliseconds("50ms"), milliseconds(".25 s")
    (50.0, 250.0)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is not a positive time with a unit, such as 50ms or 0.2s")
    return float(match[1]) * _UNIT_MS[match[2]]


def read_document(content: bytes, origin: str) -> tuple[dict[str, Any], str]:
    """Return a TOML document and its text.

    Raises:
        InvalidInput: it is not TOML; names the file and the line.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{origin}: byte {error.start} is not UTF-8", fix="Save the file as UTF-8"
        ) from error
    try:
        return tomllib.loads(text), text
    except (ValueError, RecursionError) as error:  # too many digits, or too deeply nested brackets
        raise InvalidInput(f"{origin}: {error}") from error


def is_server_file(content: bytes) -> bool:
    """Return True if the file configures the server and no model: its only table is ``server``."""
    try:
        return read_document(content, "")[0].keys() == {SERVER}
    except InvalidInput:
        return False


def parse_toml(content: bytes, origin: str) -> ModelConfig:
    """Return the model configuration in a file; its table ``server`` is another's to read.

    Args:
        origin: The file's path, for messages.

    Raises:
        InvalidInput: names the file, the line where it is known, the key and the nearest valid one.
    """
    document, text = read_document(content, origin)
    document.pop(SERVER, None)
    _refuse_unknown(document, "", text, origin)
    try:
        if "objective" in document:
            document["objective"] = _objective(document["objective"])
        config = msgspec.convert(document, ModelConfig, str_keys=True)
        _check(config)
        if "ensemble" in document:
            _check_ensemble(config, PurePath(origin).parent.name)
    except (msgspec.ValidationError, ValueError) as error:
        # msgspec appends the path of the offending value to its message; our own errors imitate that.
        message, _, path = str(error).partition(" - at `$")
        key = path.strip("`.")
        at = ""
        if key:
            at = f"{_line(text, key)}key `{key}`: "
        raise InvalidInput(f"{origin}: {at}{message[:1].lower()}{message[1:]}", field=key) from error
    return config


def _refuse_unknown(document: dict[str, Any], table: str, text: str, origin: str) -> None:
    """Refuse unknown keys before msgspec does, which names neither the line nor the nearest key."""
    known = _KEYS[table]
    for key, value in document.items():
        path = f"{table}.{key}" if table else key
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, 0.5)
            fix = f"Known here: {', '.join(known)}"
            if close:
                fix = f"Did you mean `{close[0]}`?"
            raise InvalidInput(f"{origin}: {_line(text, key)}unknown key `{path}`", fix=fix)
        if path in _KEYS:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _refuse_unknown(part, path, text, origin)


def _line(text: str, path: str) -> str:
    """Return ``line 3: `` for the first line that sets the last part of a key; empty if none does."""
    key = re.sub(r"\[.*?\]", "", path).rsplit(".", 1)[-1]
    # Matches `key =`, `a.key =`, `[table.key]` and `{ key =` in inline tables; tomllib keeps no positions.
    pattern = re.compile(
        rf"^\s*(?:\[+\s*)?(?:[\w.-]+\.)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]|[{{,]\s*{re.escape(key)}\s*="
    )
    for number, line in enumerate(text.splitlines(), 1):
        if key and pattern.search(line):
            return f"line {number}: "
    return ""


def _objective(value: Any) -> Any:
    """Return the table for ``"throughput"``, or a table with times such as ``latency_p99 = "50ms"``."""
    if value == "throughput":
        return {"throughput": True}
    if isinstance(value, str):
        raise ValueError(f'is "throughput" or a table, not {value!r} - at `$.objective`')
    if not isinstance(value, dict):
        return value
    table = dict(value)
    for key in ("latency_p99", "deadline"):
        if key in table:
            text = table.pop(key)
            try:
                table[f"{key}_ms"] = milliseconds(str(text))
            except ValueError as error:
                raise ValueError(f"{error} - at `$.objective.{key}`") from error
    return table


_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: Least values by key; for several numbers, of each.
LEAST: Final[dict[str, float]] = {
    "batching.max_rows": 1,
    "batching.max_delay_ms": 0,
    "batching.max_queue": 1,
    "batching.max_queue_rows": 0,
    "batching.max_request_rows": 0,
    "batching.preferred_rows": 1,
    "batching.sizes": 1,
    "batching.learned.latency_weight": 0,
    "batching.learned.energy_weight": 0,
    "batching.learned.watts": 0,
    "batching.learned.joules_per_row": 0,
    "batching.learned.joules_per_run": 0,
    "batching.learned.max_wait_ms": 0,
    "instances.count": 0,
    "instances.max_count": 0,
    "instances.scale_down_s": 0,
    "instances.threads": 0,
    "instances.memory_limit_mb": 0,
    "instances.run_timeout_s": 0,
    "instances.cpus": 0,
    "instances.cpu_quota": 0,
    "versions.latest": 1,
    "warmup.replays": 0,
    "warmup.rounds": 0,
    "warmup.rows": 1,
    "warmup.free_dim": 1,
    "steps.max_sequences": 1,
    "steps.max_context": 2,
    "steps.max_tokens": 0,
    "steps.max_chunk": 1,
    "steps.prefix_block": 0,
    "sequences.candidates": 0,
    "sequences.max_delay_ms": 0,
    "sequences.preferred_rows": 1,
    "sequences.min_fill": 0,
    "sequences.idle_ms": 1,
    "timeout_ms": 0,
    "objective.latency_p99_ms": 0,
    "objective.deadline_ms": 0,
    "objective.rate": 0,
    "priorities.levels": 1,
    "priorities.default": 0,
    "priorities.max_passes": 0,
    "fairness.max_tenants": 1,
    "bulk.max_rows": 0,
    "bulk.max_run_ms": 0,
    "limit.target_delay_ms": 0,
    "limit.interval_ms": 1,
    "memory.idle_s": 0,
    "memory.min_s": 0,
    "memory.priority": 0.001,
    "memory.max_mb": 0,
    "memory.share_mb": 0,
    "memory.gpu_max_mb": 0,
    "memory.gpu_share_mb": 0,
    "ensemble.max_inflight_requests": 0,
}
#: Keys on how a model is run, which mean nothing to an ensemble.
_OF_MODELS: Final = (
    "backend",
    "filename",
    "instances",
    "environment",
    "warmup",
    "objective",
    "priorities",
    "fairness",
    "bulk",
    "limit",
    "steps",
    "options",
)
_DEFAULTS: Final = ModelConfig()
msgspec.json.Decoder(ModelConfig)  # prepared here, or the first reader would do it on its thread
_MOST_LEVELS = 1024
_MOST_GPUS: Final = 64
_PYTHON: Final = re.compile(r"\d+\.\d+")
_MOST_PRICE = 1e6


def _check(config: ModelConfig) -> None:
    """Check what the types of the records cannot express."""
    for key, least in LEAST.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number < float("inf"):
                bound = "not be negative" if least == 0 else f"be at least {least:g}"
                raise ValueError(f"must {bound if number < least else 'be finite'} - at `$.{key}`")
    objective, priorities, policy = config.objective, config.priorities, config.batching.policy
    learned = config.batching.learned
    promises = bool(objective.latency_p99_ms) + bool(objective.deadline_ms) + objective.throughput
    rules = (
        (not (config.versions.all and config.versions.specific), "versions", "has both `all` and `specific`"),
        (promises <= 1, "objective", "has more than one aim; choose one"),
        (
            policy != "aimd" or objective.latency_p99_ms or objective.deadline_ms or config.timeout_ms,
            "batching.policy",
            "aimd needs a latency or deadline objective, or `timeout_ms`, to know how long a run may take",
        ),
        (
            learned.latency_weight >= 1 / _MOST_PRICE,
            "batching.learned.latency_weight",
            "must be above 0: without a price on latency it would be best never to answer",
        ),
        (
            all(n <= _MOST_PRICE for n in msgspec.structs.astuple(learned) if not isinstance(n, str)),
            "batching.learned",
            f"has a number above {_MOST_PRICE:g}",
        ),
        (
            not config.steps.vocabulary or config.reshape == Reshape(),
            "reshape",
            "is not for models that answer token by token",
        ),
        (priorities.levels <= _MOST_LEVELS, "priorities.levels", f"must be at most {_MOST_LEVELS}"),
        (priorities.default <= priorities.levels, "priorities.default", "is beyond `priorities.levels`"),
        (
            len(priorities.weights) in (0, priorities.levels),
            "priorities.weights",
            "must have one weight a level",
        ),
        (all(_is_weight(w) for w in priorities.weights), "priorities.weights", "must be from 0.001 to 1000"),
        (
            all(_is_weight(w) for w in config.fairness.weights.values()),
            "fairness.weights",
            "must be from 0.001 to 1000",
        ),
        (
            all(n >= -1 for t in config.inputs + config.outputs for n in t.shape),
            "inputs",
            "extents are -1 or more",
        ),
    )
    for holds, key, message in rules:
        if not holds:
            raise ValueError(f"{message} - at `$.{key}`")
    if config.sequences != Sequences() and not config.sequences.strategy:
        raise ValueError('must be "direct" or "oldest" - at `$.sequences.strategy`')
    if problem := sequences.misfit(config.sequences):
        raise ValueError(f"{problem} - at `$.sequences`")
    if part := sequences.conflict(config):
        raise ValueError(f"is not for models with sequences - at `$.{part}`")
    _check_promise(config)
    _check_instances(config.instances)
    _check_environment(config.environment)
    _check_batching(config)
    _check_labels(config)
    _check_logging(config.logging)
    for side in ("inputs", "outputs"):
        if problem := reshape.table_misfit(getattr(config, side), getattr(config.reshape, side)):
            raise ValueError(f"{problem} - at `$.reshape.{side}`")
    if found := ragged.misfit(config):
        raise ValueError(f"{found[1]} - at `$.{found[0]}`")
    _check_queue(config)
    _check_warmup(config.warmup)
    if beyond := bounds.misfit(config):
        raise ValueError(f"{beyond.problem} - at `$.{beyond.path}`")


def _check_labels(config: ModelConfig) -> None:
    for label in config.labels:
        if not label or label.isdecimal():
            raise ValueError(f"{label!r} cannot be a label, because it would be a version - at `$.labels`")
    if config.default_label and config.default_label not in config.labels:
        raise ValueError("is not one of the labels - at `$.default_label`")


def _check_promise(config: ModelConfig) -> None:
    objective = config.objective
    if objective.rate and not (objective.latency_p99_ms or objective.deadline_ms):
        raise ValueError(
            "needs `latency_p99` or `deadline`: a rate is promised within a time - at `$.objective.rate`"
        )


def _check_instances(instances: Instances) -> None:
    if instances.runner == "thread" and (instances.cpus or instances.cpu_quota or instances.gpus):
        raise ValueError(
            'must be "process" for `cpus`, `cpu_quota` or `gpus`: threads of one process share its cores '
            "and its memory on GPUs - at `$.instances.runner`"
        )
    if not all(0 <= gpu < _MOST_GPUS for gpu in instances.gpus):
        raise ValueError(f"must be numbers from 0 to {_MOST_GPUS - 1} - at `$.instances.gpus`")
    for limit in instances.rate_limits:
        if min(limit.count, limit.priority) < 1 or min(limit.resources.values(), default=0) < 0:
            raise ValueError("must be at least 1, and resources at least 0 - at `$.instances.rate_limits`")


def _check_environment(wish: Environment) -> None:
    if ".." in PurePath(wish.path).parts:
        raise ValueError("must be absolute, or in the model's folder - at `$.environment.path`")
    if wish.python and not (_PYTHON.fullmatch(wish.python) or PurePath(wish.python).is_absolute()):
        raise ValueError(
            "must be a version such as 3.13, or the path of an interpreter - at `$.environment.python`"
        )
    if wish.python and not wish.path:
        raise ValueError("must name a requirements file - at `$.environment.path`")


def _check_batching(config: ModelConfig) -> None:
    batching = config.batching
    if any(a >= b for a, b in itertools.pairwise(batching.sizes)):
        raise ValueError("must be ascending - at `$.batching.sizes`")
    if batching.sizes and batching.sizes[-1] != batching.max_rows:
        raise ValueError(f"must end with `max_rows`, {batching.max_rows} - at `$.batching.sizes`")
    if 0 < batching.max_request_rows < batching.max_rows:
        raise ValueError("must not be below `max_rows` - at `$.batching.max_request_rows`")
    if (batching.sizes or batching.pad) and config.ragged != Ragged():
        raise ValueError("is not for models with ragged inputs - at `$.batching`")


def _check_logging(wish: Logging) -> None:
    if not 0 <= wish.rate <= 1:
        raise ValueError("must be from 0 to 1 - at `$.logging.rate`")
    if wish.prefix and not _PREFIX.fullmatch(wish.prefix):
        raise ValueError(
            "must be the beginning of a file's name: letters, digits, `.`, `-`, `_` - at `$.logging.prefix`"
        )
    if wish.max_mb < 1 or wish.files < 2:
        raise ValueError("`max_mb` must be at least 1, and `files` at least 2 - at `$.logging`")


def _check_warmup(warmup: Warmup) -> None:
    samples = warmup.samples
    if warmup.file and samples:
        raise ValueError("has both `file` and `samples` - at `$.warmup`")
    if not all(sample.rows >= 1 and sample.rounds >= 1 for sample in samples):
        raise ValueError("`rows` and `rounds` must be at least 1 - at `$.warmup.samples`")
    if any(extent < 0 for sample in samples for told in sample.inputs.values() for extent in told.shape):
        raise ValueError("shapes must be known in full - at `$.warmup.samples`")


def _check_queue(config: ModelConfig) -> None:
    levels, keeps_order = config.priorities.levels, config.batching.preserve_order
    if keeps_order and levels > 1:
        raise ValueError("is not for a model with several priority levels - at `$.batching.preserve_order`")
    queue = config.queue
    if queue is None:
        return
    if not all(1 <= level <= levels for level in queue.levels):
        raise ValueError("has a level that `priorities.levels` does not reach - at `$.queue.levels`")
    for policy in (queue, *queue.levels.values()):
        if policy.max_size < 0:
            raise ValueError("must not be negative - at `$.queue.max_size`")
        if not 0 <= policy.timeout_ms < float("inf"):
            raise ValueError("must be a finite number that is not negative - at `$.queue.timeout_ms`")
        if keeps_order and policy.timeout_action == "delay":
            raise ValueError('"delay" contradicts `batching.preserve_order` - at `$.queue.timeout_action`')


def _check_ensemble(config: ModelConfig, name: str) -> None:
    """Check that an ensemble's tensors can flow and that it has no keys of models."""
    for key in _OF_MODELS:
        if getattr(config, key) != getattr(_DEFAULTS, key):
            raise ValueError(f"is for models, not for an ensemble of them - at `$.{key}`")
    inputs, outputs = ([spec.name for spec in side] for side in (config.inputs, config.outputs))
    if problem := ensemble.misfit(name, config.ensemble, inputs, outputs):
        raise ValueError(f"{problem} - at `$.ensemble.steps`")


def _is_weight(value: float) -> bool:
    return 1e-3 <= value <= 1e3
