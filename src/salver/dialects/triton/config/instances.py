"""Instance groups of a Triton model configuration (TR-C11)."""

from typing import Any

from salver.machine import count_gpus
from salver.words.artifacts import Instances, RateLimit
from salver.words.errors import InvalidInput

_AUTO, _GPU = 0, 1


def instances_of(message: Any, origin: str, notices: list[str]) -> Instances:
    """Return the instances of all groups.

    Groups on GPUs are on those of this machine, which are the CPU if it has none: Triton refuses that.

    Args:
        message: The ``ModelConfig``.
        origin: Its source, for messages.
        notices: Gets a notice for each field without effect.

    Raises:
        InvalidInput: A resource is global in one group and not in another.
    """
    count = 0
    gpus: list[int] = []
    limits: list[RateLimit] = []
    shared: dict[str, bool] = {}
    for index, group in enumerate(message.instance_group):
        if group.passive:
            continue
        own = _gpus_of(group, notices)
        gpus += own * max(group.count, 1)  # Triton's count is for each GPU
        size = max(group.count, 1) * max(len(own), 1)
        count += size
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
    if 0 < len(gpus) < count:
        notices.append("config.pbtxt: some groups are on GPUs, so all instances are")
    return Instances(count=count, rate_limits=tuple(limits), gpus=tuple(gpus))


def _gpus_of(group: Any, notices: list[str]) -> list[int]:
    """Return the GPUs of a group; empty = it runs on the CPU."""
    wanted = list(group.gpus)
    if group.kind != _GPU and not (group.kind == _AUTO and wanted):
        if wanted:
            notices.append("config.pbtxt: field `instance_group.gpus` is accepted, and has no effect here")
        return []
    there = count_gpus()
    if not there:
        notices.append("config.pbtxt: field `instance_group.gpus` has no effect: this machine has no GPU")
        return []
    return wanted or list(range(there))
