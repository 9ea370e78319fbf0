"""Settings and rules for models that are loaded with an objective, or with the policy ``learned``."""

import asyncio
import functools
from collections.abc import Awaitable, Callable

from salver.backends.protocol import Backend
from salver.features.planning.promises import LoadedModel, PromiseBook
from salver.features.tuning.choose import is_set
from salver.features.tuning.grid import GridPlacement
from salver.features.tuning.online_training import TableProcess, TableUpdater
from salver.features.tuning.profiles import ProfileStore
from salver.features.tuning.profiling import Profiler, limits_of
from salver.kernel.engine.learned import LearnedRule
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.kernel.serving.loading import Lessons, Opened
from salver.stats.batch_law import LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Instances, Manifest


class LoadTuning:
    """Tunes models while they are loaded (:class:`~salver.kernel.serving.loading.Tuning`).

    Args:
        profiles: Keeps what was measured, and the tables of the policy ``learned``.
        clock: Monotonic seconds.
    """

    def __init__(self, profiles: ProfileStore, clock: Callable[[], float], cores: int) -> None:
        self._profiles = profiles
        self._profiler = Profiler(profiles, clock, cores)
        self._cores = cores
        self._promises = PromiseBook(cores)

    async def open(
        self,
        manifest: Manifest,
        backend: Backend,
        wish: Instances,
        placement: Placement,
        open_runner: Callable[[Placement], Awaitable[Runner]],
    ) -> Opened | None:
        """See :class:`~salver.kernel.serving.loading.Tuning`."""
        if not is_set(manifest.config.objective):
            return None

        async def open_at(placed: GridPlacement) -> Runner:
            return await open_runner(Placement(placement.runner, placed.instances, placed.threads))

        limits = limits_of(manifest.config, wish, placement, backend, self._cores)
        default = GridPlacement(placement.slots, placement.threads)
        runner, placed, config, _, laws, profile = await self._profiler.find(
            manifest, backend, limits, default, open_at
        )
        place = Placement(placement.runner, placed.instances, placed.threads)
        if profile is None or laws is None:
            return Opened(runner, place, config, laws)
        try:
            await self._promises.admit(runner, LoadedModel(manifest.id, config, place, laws))
        except BaseException:
            await runner.close()
            raise

        async def remember(live: ShapeLaws) -> None:
            self._promises.forget(runner)
            await self._profiler.remember(profile, placed, live)

        return Opened(runner, place, config, laws, remember)

    async def teach(
        self, manifest: Manifest, batching: Batching, rule: LearnedRule, laws: ShapeLaws
    ) -> Lessons:
        """See :class:`~salver.kernel.serving.loading.Tuning`."""
        key = await asyncio.to_thread(self._profiles.table_key, manifest, batching)
        kept = await asyncio.to_thread(self._profiles.read_table, key)
        if not laws.usual.is_known and kept is not None:
            laws = ShapeLaws(LiveLaw(kept.law))
        save = functools.partial(self._profiles.write_table, key)
        teacher = TableUpdater(rule, laws.usual, batching, TableProcess(), kept, save)
        return Lessons(laws, teacher.start, teacher.close)
