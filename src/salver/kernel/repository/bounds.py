"""Bounds of all numbers in a configuration, by what this machine can support.

The whole record is walked and checked against a table by the field's path; a field that is in no table must
still be a finite number of 64 bits. Numbers are checked before anything is allocated or repeated by them.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from salver.machine import memory_bytes, usable_cores
from salver.words.artifacts import ModelConfig, SequenceState, WarmupSample
from salver.words.errors import InvalidInput
from salver.words.handlers import MOST_WORKERS

_INT64: Final = (1 << 63) - 1
#: 100 years in milliseconds, which timers accept.
_LONGEST_MS: Final = 100 * 366 * 86_400_000
_ROWS: Final = 1 << 20
_WAITING: Final = 1 << 24
_PER_CORE: Final = 64
_THREADS_PER_CORE: Final = 256
_SLOTS: Final = 1 << 22


class Machine(NamedTuple):
    """Usable cores and bytes of memory."""

    cores: int
    memory: int


@functools.cache
def machine() -> Machine:
    """Return what this process may use of the machine that it runs on."""
    return Machine(usable_cores(), memory_bytes())


class Most(NamedTuple):
    """An upper bound and its reason."""

    value: float
    why: str = ""

    def __str__(self) -> str:
        """Return the bound with its reason, for messages."""
        value = int(self.value)
        if self.why:
            return f"{value} ({self.why})"
        return f"{value}"


def most_instances(here: Machine) -> Most:
    """Return the most instances of a model, or threads of a run."""
    return Most(
        _PER_CORE * here.cores, f"{_PER_CORE} for each of the {here.cores} cores that this server may use"
    )


def most_workers(here: Machine) -> int:
    """Return the most workers of a handler, each of which is a process."""
    return min(MOST_WORKERS, _PER_CORE * here.cores)


_Bound = float | Callable[[Machine], Most]
#: Bounds by path; for several numbers, of each.
_OF_MODEL: Final[Mapping[str, _Bound]] = {
    "batching.max_rows": _ROWS,
    "batching.max_delay_ms": _LONGEST_MS,
    "batching.max_queue": _WAITING,
    "batching.max_queue_rows": 1 << 40,
    "batching.max_request_rows": 1 << 31,
    "batching.preferred_rows": _ROWS,
    "batching.sizes": _ROWS,
    "bulk.max_rows": _ROWS,
    "bulk.max_run_ms": _LONGEST_MS,
    "ensemble.max_inflight_requests": _WAITING,
    "fairness.max_tenants": _ROWS,
    "instances.count": most_instances,
    "instances.max_count": most_instances,
    "instances.scale_down_s": _LONGEST_MS / 1000,
    "instances.cpu_quota": 1 << 16,
    "instances.cpus": 1 << 16,
    "instances.threads": most_instances,
    "instances.memory_limit_mb": 1 << 24,
    "instances.run_timeout_s": _LONGEST_MS / 1000,
    "instances.rate_limits.count": most_instances,
    "instances.rate_limits.priority": 1 << 32,
    "instances.rate_limits.resources": 1 << 32,
    "limit.interval_ms": _LONGEST_MS,
    "limit.target_delay_ms": _LONGEST_MS,
    "logging.files": 10_000,
    "logging.max_mb": 1 << 24,
    "objective.deadline_ms": _LONGEST_MS,
    "objective.latency_p99_ms": _LONGEST_MS,
    "objective.rate": 1e9,
    "priorities.max_passes": 1 << 32,
    "queue.max_size": 1 << 32,
    "queue.timeout_ms": 1 << 64,
    "queue.levels.max_size": 1 << 32,
    "queue.levels.timeout_ms": 1 << 64,
    "sequences.candidates": _ROWS,
    "sequences.controls.values": 1 << 31,
    "sequences.idle_ms": 1 << 64,
    "sequences.max_delay_ms": 1 << 64,
    "sequences.preferred_rows": _ROWS,
    "steps.max_chunk": _ROWS,
    "steps.max_context": 1 << 24,
    "steps.max_sequences": 1 << 16,
    "steps.max_tokens": 1 << 40,
    "steps.prefix_block": _ROWS,
    "timeout_ms": 1 << 64,
    "versions.latest": 1 << 32,
    "warmup.free_dim": _ROWS,
    "warmup.replays": 10_000,
    "warmup.rounds": 10_000,
    "warmup.rows": _ROWS,
    "warmup.samples.rounds": 10_000,
    "warmup.samples.rows": _ROWS,
    "workers.batch_size": 1 << 31,
    "workers.least": lambda here: Most(most_workers(here)),
}
_OF_SERVER: Final[Mapping[str, _Bound]] = {
    "connections.least_rate": 1 << 40,
    "connections.per_address": 1 << 32,
    "front.port": 65_535,
    "more.port": 65_535,
    "front.grace_seconds": _LONGEST_MS / 1000,
    "more.grace_seconds": _LONGEST_MS / 1000,
    "grpc_compression": 9,
    "instances": most_instances,
    "max_bodies_mb": 1 << 24,
    "max_body_mb": 1 << 24,
    "max_message_mb": 4095,
    "poll_seconds": _LONGEST_MS / 1000,
    "resources": 1 << 32,
    "threads": most_instances,
}
#: Fields of a model that may be below 0; their own rules say how far.
_SIGNED: Final = frozenset(
    {
        "fallbacks.constant",
        "steps.end_token",
        "sequences.controls.values",
        "sequences.states.initial_shape",
        "sequences.states.shape",
        *(f"{table}{side}" for table in ("", "reshape.") for side in ("inputs", "outputs")),
        *(f"{side}.shape" for side in ("inputs", "outputs")),
    }
)


class Misfit(NamedTuple):
    """Path of a number that is out of bounds, and what is wrong with it."""

    path: str
    problem: str


def misfit(config: ModelConfig, here: Machine | None = None) -> Misfit | None:
    """Return the first number that is out of bounds on this machine; None if there is none.

    >>> from salver.words.artifacts import Instances
    >>> print(misfit(ModelConfig(instances=Instances(count=10**9)), Machine(2, 1 << 34)).problem)
    is 1000000000, and must be at most 128 (64 for each of the 2 cores that this server may use)
    """
    here = here or machine()
    return _beyond(config, _OF_MODEL, here) or _negative(config) or _too_much(config, here)


def fixed_bounds() -> dict[str, float]:
    """Return the upper bounds of a model's numbers that are the same on every machine, by path."""
    return {path: bound for path, bound in _OF_MODEL.items() if not callable(bound)}


def check_server(config: msgspec.Struct, table: str = "") -> None:
    """Refuse a number of a server's configuration that is out of bounds.

    Args:
        table: The table of the configuration, for messages; empty = the whole configuration.

    Raises:
        InvalidInput: naming the field and its bound.
    """
    found = _beyond(config, _OF_SERVER, machine()) or next(
        (
            Misfit(path, f"is {value}, and must not be negative")
            for path, value in _numbers(config, "")
            if value < 0 and path in _OF_SERVER
        ),
        None,
    )
    if found:
        path = found.path
        if table:
            path = f"{table}.{found.path}"
        raise InvalidInput(f"{path} {found.problem}", field=path)


def _beyond(record: msgspec.Struct, table: Mapping[str, _Bound], here: Machine) -> Misfit | None:
    for path, value in _numbers(record, ""):
        if isinstance(value, float) and not math.isfinite(value):
            return Misfit(path, f"is {value}, and must be finite")
        bound = table.get(path, _INT64)
        most = bound(here) if callable(bound) else Most(bound)
        if value > most.value:
            return Misfit(path, f"is {value}, and must be at most {most}")
        if value < -_INT64:
            return Misfit(path, f"is {value}, and must be at least {-_INT64}")
    return None


def _negative(config: ModelConfig) -> Misfit | None:
    for path, value in _numbers(config, ""):
        if value < 0 and path not in _SIGNED:
            return Misfit(path, f"is {value}, and must not be negative")
    return None


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Yield every number below, with the path of its field."""
    if isinstance(value, bool | str | bytes):
        return
    if isinstance(value, int | float):
        yield path, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _numbers(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, tuple | list | Mapping):
        parts = value.values() if isinstance(value, Mapping) else value
        for part in parts:
            if isinstance(part, str):
                return  # labels, of which there may be very many
            yield from _numbers(part, path)


def _too_much(config: ModelConfig, here: Machine) -> Misfit | None:
    """Return numbers that are within their bounds, but too large together."""
    instances, steps, sequences = config.instances, config.steps, config.sequences
    count = max(1, instances.count)
    threads = count * max(1, instances.threads)
    if threads > (most := _THREADS_PER_CORE * here.cores):
        return Misfit(
            "instances.threads",
            f"makes {threads} threads of {count} instances; there may be {most}, {_THREADS_PER_CORE} for "
            f"each of the {here.cores} cores that this server may use",
        )
    if 0 < instances.max_count < instances.count:
        return Misfit("instances.max_count", f"is less than instances.count, {instances.count}")
    slots = count * (sequences.candidates or config.batching.max_rows)
    if sequences.strategy and slots > _SLOTS:
        return Misfit("sequences.candidates", f"makes {slots} slots of {count} instances, of {_SLOTS}")
    if steps.vocabulary and steps.max_sequences * steps.max_context > here.memory:
        return Misfit(
            "steps.max_context",
            f"makes {steps.max_sequences * steps.max_context} tokens of {steps.max_sequences} sequences, and "
            f"there are {here.memory} bytes of memory",
        )
    room = here.memory // 4
    for sample in config.warmup.samples:
        if (size := _size_of(sample)) > room:
            return Misfit(
                "warmup.samples", f"makes a request of {size} bytes; at most a quarter of the memory, {room}"
            )
    for state in sequences.states:
        if (size := _size_of_state(state)) > room:
            return Misfit(
                "sequences.states", f"makes a state of {size} bytes; at most a quarter of the memory, {room}"
            )
    return None


def _size_of(sample: WarmupSample) -> int:
    return sample.rows * sum(
        [math.prod(told.shape) * (told.datatype.itemsize or 8) for told in sample.inputs.values()]
    )


def _size_of_state(state: SequenceState) -> int:
    extents = state.initial_shape or [1 if extent == -1 else extent for extent in state.shape]
    return math.prod(extents) * (state.datatype.itemsize or 8)
