"""Priorities and queue policies of a Triton model configuration (TR-C8). Pure."""

from typing import Any, Final

from msgspec.structs import replace

from salver.words.artifacts import ModelConfig, Priorities, Queue, QueuePolicy
from salver.words.errors import InvalidInput

_MOST_LEVELS: Final = 1024
#: Queue size of models without a limit: Triton has none then, Salver needs one.
MOST_WAITING: Final = 1 << 16


def priorities_of(dynamic: Any, origin: str, name: str) -> Priorities:
    """Return the priority levels.

    Args:
        dynamic: The message ``ModelDynamicBatching``.
        origin: Its source, for messages.
        name: The model's name.

    Raises:
        InvalidInput: There are too many levels, or the default is not one of them.
    """
    levels, default = dynamic.priority_levels, dynamic.default_priority_level
    if not levels:
        return Priorities()
    if levels > _MOST_LEVELS:
        key = "dynamic_batching.priority_levels"
        raise InvalidInput(f"{origin}: `{key}` must be from 1 to {_MOST_LEVELS}", field=key)
    if not 1 <= default <= levels:
        raise InvalidInput(
            f"{origin}: default priority level must be in range [1, {levels}] for {name}",
            field="dynamic_batching.default_priority_level",
        )
    return Priorities(levels, default)


def queue_of(dynamic: Any, origin: str, name: str) -> Queue | None:
    """Return the queue policies; None if there are none.

    Raises:
        InvalidInput: A policy is for an unknown level, or contradicts ``preserve_ordering``.
    """
    policies = {level: _policy(policy) for level, policy in sorted(dynamic.priority_queue_policy.items())}
    levels = dynamic.priority_levels
    if levels and policies and not 1 <= min(policies) <= max(policies) <= levels:
        raise InvalidInput(
            f"{origin}: priority queue policy must have priority level in range [1, {levels}] for {name}",
            field="dynamic_batching.priority_queue_policy",
        )
    default = _policy(dynamic.default_queue_policy)
    if dynamic.preserve_ordering:
        problem = ""
        if levels > 1:
            problem = "Only one priority level is allowed when 'preserve_ordering' is true"
        elif any(p.timeout_ms and p.timeout_action == "delay" for p in (default, *policies.values())):
            problem = "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true"
        if problem:
            raise InvalidInput(f"{origin}: {problem} for {name}", field="dynamic_batching.preserve_ordering")
    if not policies and not dynamic.HasField("default_queue_policy"):
        return None
    if not levels:
        policies = {}  # without levels only the default policy counts
    return Queue(
        default.max_size, default.timeout_ms, default.timeout_action, default.allow_timeout_override, policies
    )


def limited(config: ModelConfig, queue: Queue, is_decoupled: bool, notices: list[str]) -> ModelConfig:
    """Return the configuration with the policies.

    Args:
        is_decoupled: Whether requests run one by one. Then the default policy's timeout limits the whole
            answer, and its size the number of waiting requests.
    """
    if is_decoupled:
        if queue.levels or queue.timeout_action == "delay":
            notices.append(
                "config.pbtxt: field `dynamic_batching` has no levels and no DELAY for a decoupled model"
            )
        batching = replace(config.batching, max_queue=queue.max_size or MOST_WAITING)
        return replace(config, batching=batching, queue=None, timeout_ms=queue.timeout_ms)
    return replace(config, batching=replace(config.batching, max_queue=MOST_WAITING))


def _policy(message: Any) -> QueuePolicy:
    return QueuePolicy(
        message.max_queue_size,
        message.default_timeout_microseconds / 1000,
        "delay" if message.timeout_action == 1 else "reject",
        message.allow_timeout_override,
    )
