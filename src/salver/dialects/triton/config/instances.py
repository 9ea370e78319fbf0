"""Instance groups of a Triton model configuration (TR-C11). Pure."""

from typing import Any

from salver.words.artifacts import Instances, RateLimit
from salver.words.errors import InvalidInput

_GPU = 1


def instances_of(message: Any, origin: str, notices: list[str]) -> Instances:
    """Return the instances of all groups.

    Args:
        message: The ``ModelConfig``.
        origin: Its source, for messages.
        notices: Gets a notice for each field without effect.

    Raises:
        InvalidInput: A resource is global in one group and not in another.
    """
    count = 0
    limits: list[RateLimit] = []
    shared: dict[str, bool] = {}
    for index, group in enumerate(message.instance_group):
        if group.passive:
            continue
        size = max(group.count, 1)
        count += size
        if group.kind == _GPU:
            notices.append(
                "config.pbtxt: field `instance_group.kind` KIND_GPU has no effect yet: runs on the CPU"
            )
        limiter = group.rate_limiter
        needs: dict[str, int] = {}
        for resource in limiter.resources:
            is_global = getattr(resource, "global")
            if shared.setdefault(resource.name, is_global) != is_global:
                raise InvalidInput(
                    f'{origin}: Resource "{resource.name}" is present as both global and device-specific '
                    "resource in the model configuration.",
                    field=f"instance_group[{index}].rate_limiter",
                )
            needs[resource.name] = resource.count
        limits.append(RateLimit(size, needs, max(1, limiter.priority)))
    if not any(limit.resources for limit in limits):
        limits = []
    return Instances(count=count, rate_limits=tuple(limits))
