"""Keys of a step that change no answer: ``cache``, ``placement``, ``instances`` and ``max-rows``.

Pure. What cannot be is refused where the pipeline is planned, with the key and what to do.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from salver.features.pipelines.steps.step import Step
from salver.words.artifacts import Batching, Instances, ModelConfig

#: Instances and rows beyond this are mistakes.
_MOST: Final = 1 << 16


class Running(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Cache, placement and size of the runs of a step.

    Attributes:
        cache: Equal inputs are computed once, by the server's response cache.
        placement: ``thread``, or ``process`` (a host process); empty = as its kind says.
        instances: Runs at the same time; 0 = as its kind says.
        max_rows: Most rows in one run; 0 = as its kind says.
    """

    cache: bool = False
    placement: Literal["", "thread", "process"] = ""
    instances: int = 0
    max_rows: int = 0


AS_IS: Final = Running()
KEYS: Final = tuple(field.encode_name for field in msgspec.structs.fields(Running))


class Unfit(NamedTuple):
    """Refusal of a key: the problem, and what to do."""

    key: str
    problem: str
    fix: str = ""


def running(table: Mapping[str, Any]) -> Running | Unfit:
    """Return what the table of a step says."""
    told = {key: table[key] for key in KEYS if key in table}
    if not told:
        return AS_IS
    if told.get("placement", "thread") not in ("thread", "process"):
        return Unfit("placement", '`placement` is "thread" or "process"')
    if not isinstance(told.get("cache", False), bool):
        return Unfit("cache", "`cache` is true or false")
    for key in ("instances", "max-rows"):
        if key in told and (type(told[key]) is not int or not 1 <= told[key] <= _MOST):
            return Unfit(key, f"`{key}` is a number from 1 to {_MOST}")
    return msgspec.convert(told, Running)


def unfit_step(step: Step, how: Running, *, has_lists: bool) -> Unfit | None:
    """Return why a step cannot run so; None = it can.

    Args:
        has_lists: It takes lists apart, puts lists together, or merges rows.
    """
    if how == AS_IS:
        return None
    first = next(key for key in KEYS if getattr(how, key.replace("-", "_")))
    is_served = step.is_heavy or bool(how.placement)
    if has_lists:
        return Unfit(
            first, f"it puts rows together or takes them apart, so that `{first}` cannot be said of it"
        )
    if how.cache and not step.is_repeatable:
        return Unfit(
            "cache", "it gives other results at other times", "Leave `cache` out: it has its own, if any"
        )
    if how.placement == "process" and not step.is_movable:
        return Unfit("placement", "it cannot run in another process", 'Write placement = "thread"')
    if not is_served:
        problem = f"it runs at once, within microseconds, so that `{first}` has no meaning"
        return Unfit(first, problem, f'Leave `{first}` out, or add placement = "thread" if it takes its time')
    is_alone = step.threads == 1 and how.placement != "process"
    if how.instances > 1 and is_alone:
        return Unfit(
            "instances", "its runs cannot share one process", 'Add placement = "process", or leave it out'
        )
    if how.max_rows and step.threads == 1:
        return Unfit(
            "max-rows", "it takes requests whole, since its outputs depend on the longest row", "Leave it out"
        )
    return None


def unfit_member(how: Running) -> Unfit | None:
    """Return why a model of the server cannot run so; None = it can."""
    if how == AS_IS:
        return None
    first = next(key for key in KEYS if getattr(how, key.replace("-", "_")))
    where = {
        "cache": "response_cache",
        "placement": "instances.runner",
        "instances": "instances.count",
        "max-rows": "batching.max_rows",
    }
    fix = f"Write `{where[first]}` into the salver.toml of that model"
    return Unfit(
        first, f"it is a model of the server, which runs for others, too, so that `{first}` is its own", fix
    )


def config_of(how: Running) -> ModelConfig:
    """Return the configuration of a model beside ``pipeline.toml``."""
    batching, instances = Batching(), Instances()
    if how.max_rows:
        batching = Batching(max_rows=how.max_rows)
    if how.placement or how.instances:
        instances = Instances(count=how.instances, runner=how.placement or "auto")
    return ModelConfig(batching=batching, instances=instances)
