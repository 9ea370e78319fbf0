"""Promises of the models that a server has loaded: a load that would break one is refused.

Kept by the measured laws of the loaded models, which live runs correct. Only models with an objective have a
law; the check begins as soon as one of them declares a rate (``objective.rate``). It assumes that models take
turns on the cores, and does not make them: requests that cannot be in time are refused as before.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from salver.features.planning.packing import pack, refusal
from salver.features.planning.rounds import PlacedLaw, Promise
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.stats.batch_law import BatchLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

#: Largest safety margin taken from a law: a larger one tells of a busy machine.
_MOST_ERROR: Final = 0.5
#: Models with promises on one machine.
MOST_MODELS: Final = 200


def promise_of(name: str, config: ModelConfig, laws: Sequence[tuple[int, int, BatchLaw]]) -> Promise:
    """Return the promise that a configuration makes, with the measured laws of its placements.

    Args:
        laws: Instances, threads and law of each placement.
    """
    objective = config.objective
    placed = [
        PlacedLaw(instances, threads, msgspec.structs.replace(law, error=min(law.error, _MOST_ERROR)))
        for instances, threads, law in laws
    ]
    limit = (objective.latency_p99_ms or objective.deadline_ms) / 1e3
    return Promise(name, objective.rate, limit, placed, config.batching.largest_run, config.memory.priority)


class LoadedModel(NamedTuple):
    """Loaded version with an objective, by whose laws its promise is kept."""

    id: ModelId
    config: ModelConfig
    placement: Placement
    laws: ShapeLaws

    def promise(self) -> Promise | None:
        """Return its promise by what is known of its runs now; None = nothing is."""
        law = self.laws.usual.law()
        if not law.seconds(1):
            return None
        return promise_of(self.id.name, self.config, [(self.placement.slots, self.placement.threads, law)])


class PromiseBook:
    """Promises of the loaded models, by their runners. Use from one event loop only.

    Args:
        cores: Cores of the server.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._loaded: WeakKeyDictionary[Runner, LoadedModel] = WeakKeyDictionary()
        self._alone = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<PromiseBook of {len(self._loaded)} models>"

    async def admit(self, runner: Runner, model: LoadedModel) -> None:
        """Note the promise of a model that is loaded.

        Raises:
            LoadFailed: it cannot be kept beside the others', or would break one of theirs.
        """
        if not is_promise(model.config):
            return
        async with self._alone:  # so that of two that load at once the second sees the first
            others = {each.id.name: each.promise() for each in self._loaded.values()}
            others.pop(model.id.name, None)  # an older version, which this one replaces
            kept = [promise for promise in others.values() if promise is not None]
            newcomer = model.promise()
            if newcomer is not None and any(promise.rate for promise in (*kept, newcomer)):
                await asyncio.to_thread(check, newcomer, kept, self._cores)
            self._loaded[runner] = model

    def forget(self, runner: Runner) -> None:
        """Forget a model that is unloaded."""
        self._loaded.pop(runner, None)


def is_promise(config: ModelConfig) -> bool:
    """Return whether a model promises to answer within a time."""
    return bool(config.objective.latency_p99_ms or config.objective.deadline_ms)


def check(newcomer: Promise, others: Sequence[Promise], cores: int) -> None:
    """Check that a model keeps its promise beside others, and breaks none of theirs.

    Raises:
        LoadFailed: it does not; names the models that it collides with.
    """
    if len(others) >= MOST_MODELS:
        raise LoadFailed(f"more than {MOST_MODELS} models have an objective", field="objective.rate")
    if pack([*others, newcomer], cores) is not None:
        return
    if others and pack(others, cores) is None:
        return  # broken before, by laws that have changed: not this model's doing
    found = refusal(newcomer, others, cores)
    fix = "Lower its objective.rate, or allow more time."
    if found.collides:
        fix = f"Unload {' and '.join(found.collides)}, or find settings for all of them: salver plan."
    raise LoadFailed(f"not all promises could be kept: {found}", field="objective", fix=fix)
