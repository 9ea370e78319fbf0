"""Choice of a setting when a model with an objective is loaded.

Measures what :mod:`salver.features.tuning.search` requests, on real runners and for a few seconds at most,
unless a stored profile already has it; then :mod:`salver.features.tuning.choose` decides. It never makes a
load fail: a model that cannot be measured runs as without an objective and learns its law from live traffic.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from salver.backends.protocol import Backend
from salver.features.tuning.bench import Bench, OpenRunner
from salver.features.tuning.choose import Setting
from salver.features.tuning.grid import GridPlacement, Limits
from salver.features.tuning.judgement import Judge
from salver.features.tuning.profile import Cell, Measurement, Profile
from salver.features.tuning.profiles import ProfileStore, machine
from salver.features.tuning.search import Search
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.stats.batch_law import LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Instances, Manifest, ModelConfig
from salver.words.errors import SalverError

_LOG = logging.getLogger("salver.profiling")
_ARRIVALS = 2000  # simulated requests per setting
_UNSET = Batching()
_WORTH_KEEPING = 64  # live runs before a law is stored


class ModelSetup(NamedTuple):
    """Setting of a model, with its runner.

    Attributes:
        runner: Loaded runner, owned by the caller.
        config: Configuration of the model with the chosen batch limit.
        setting: The choice and its reasons; None without an objective, or if nothing could be measured.
        laws: Initial laws; None = unknown.
        profile: Profile to update with :meth:`Profiler.remember`; None without an objective.
    """

    runner: Runner
    placed: GridPlacement
    config: ModelConfig
    setting: Setting | None = None
    laws: ShapeLaws | None = None
    profile: Profile | None = None


def limits_of(
    config: ModelConfig, wish: Instances, placement: Placement, backend: Backend, cores: int
) -> Limits:
    """Return what configuration and backend leave open. A value other than the default counts as set.

    Args:
        wish: Configured instances and threads.
        placement: Placement without an objective.
    """
    traits = backend.traits
    shares = traits.releases_gil and traits.concurrent and placement.runner == "thread"
    rows = 0
    if config.batching.max_rows != _UNSET.max_rows:
        rows = config.batching.max_rows
    if wish.cpus:
        cores = min(cores, len(wish.cpus))
    return Limits(cores, shares, config.batching.enabled, wish.count, wish.threads, rows)


def replay(search: Search, profile: Profile) -> None:
    """Feed a search with earlier measurements."""
    cells = set(search.limits.cells())
    for cell in profile.refused:
        if cell in cells:
            search.refuse(cell)
    for measured in profile.measured:
        if measured.cell in cells:
            search.tell(measured)


async def run_search(
    search: Search,
    bench: Bench,
    until: float,
    clock: Callable[[], float],
    told: Callable[[Measurement], None] = lambda measured: None,
) -> tuple[Cell, ...]:
    """Measure what a search requests, twice, or as much as possible by a certain time.

    Args:
        until: Time limit on the clock; loading for another placement is not included.
        told: Called with the first measurement of each cell.

    Returns:
        The cells that could not be measured.
    """
    refused: list[Cell] = []
    fresh: list[Cell] = []
    while clock() < until and (cell := search.ask()) is not None:
        placed = GridPlacement(cell.instances, cell.threads)
        began = clock()
        try:
            await bench.runner(placed)
            until += clock() - began  # loading time does not count
        except SalverError as error:
            _LOG.info("placement %s is not available: %s", placed, error)
            search.rule_out(placed)
            continue
        try:
            measured, runs = await bench.measure(cell)
        except SalverError as error:
            _LOG.info("runs of %d rows fail: %s", cell.rows, error)
            search.refuse(cell)
            refused.append(cell)
            continue
        search.tell(measured, runs)
        fresh.append(cell)
        told(measured)
    # Repeat everything in reverse order, so that a moment with other load on the machine does not decide.
    for cell in reversed(fresh):
        if clock() < until and GridPlacement(cell.instances, cell.threads) in bench.placements:
            search.tell(*await bench.measure(cell))
    return tuple(refused)


class Profiler:
    """Chooser of settings, one model at a time.

    Args:
        clock: Monotonic seconds.
        seconds: Approximate time limit for measuring a model; loading it for each placement is not included.
    """

    def __init__(
        self, store: ProfileStore, clock: Callable[[], float], cores: int, seconds: float = 3.0
    ) -> None:
        self._store = store
        self._clock = clock
        self._cores = cores
        self._seconds = seconds
        self._alone = asyncio.Lock()  # concurrent measurements would disturb each other
        gaps = np.random.default_rng(1).exponential(1.0, _ARRIVALS)
        self._judge = Judge(gaps)

    def __repr__(self) -> str:
        return f"<Profiler, {self._store!r}>"

    async def find(
        self,
        manifest: Manifest,
        backend: Backend,
        limits: Limits,
        default: GridPlacement,
        open_runner: OpenRunner,
    ) -> ModelSetup:
        """Load a model with the setting that best meets its objective.

        Args:
            default: Placement if nothing can be measured.

        Raises:
            LoadFailed: it cannot be loaded at all.
        """
        key, here = await asyncio.to_thread(
            lambda: (self._store.key(manifest), machine(backend, self._cores))
        )
        profile = await asyncio.to_thread(self._store.read, key, here) or Profile(key, here)
        bench = Bench(manifest, open_runner, self._clock)
        try:
            if profile.measured:
                limits = _batched_as(limits, profile)
            else:
                signature = (await bench.runner(limits.placements()[0])).signature
                limits = msgspec.structs.replace(limits, batched=limits.batched and signature.batched)
            setting, profile = await self._setting(manifest, limits, profile, bench)
            placed = default
            if setting:
                placed = GridPlacement(setting.instances, setting.threads)
            size = await bench.row_size(placed)
            runner = await bench.keep(placed)
        except BaseException:
            await bench.close()
            raise
        config = manifest.config
        if setting and limits.batched and not limits.rows:
            batching = msgspec.structs.replace(config.batching, max_rows=setting.max_rows)
            config = msgspec.structs.replace(config, batching=batching)
        known = profile.laws_by_size(placed.instances, placed.threads)
        usual = known.pop(0, None)
        laws = ShapeLaws(LiveLaw(usual), size if usual else 0, known)
        return ModelSetup(runner, placed, config, setting, laws, profile)

    async def _setting(
        self, manifest: Manifest, limits: Limits, profile: Profile, bench: Bench
    ) -> tuple[Setting | None, Profile]:
        """Return the choice, and the profile with all measurements for it."""
        async with self._alone:
            first = limits.placements()[0]
            alone = profile.alone_s
            try:
                alone = alone or await bench.alone(first)
            except SalverError as error:
                _LOG.info(
                    "%s runs with default settings and learns from live traffic: %s", manifest.id, error
                )
                return None, profile
            search = Search(limits, manifest.config.objective, alone)
            replay(search, profile)
            known = len(search.measured)
            refused = profile.refused + await run_search(
                search, bench, self._clock() + self._seconds, self._clock
            )
            judge = self._judge if limits.batched else None
            setting = await asyncio.to_thread(search.setting, judge)
        if setting is None:
            _LOG.info("%s takes too long to measure; it learns from live traffic", manifest.id)
            return None, profile
        _LOG.info(
            "%s runs %s with at most %d rows (%d cells measured, %d known): %s",
            manifest.id, GridPlacement(setting.instances, setting.threads), setting.max_rows,
            len(search.measured) - known, known, " ".join(setting.reasons),
        )  # fmt: skip
        if len(search.measured) > known or refused != profile.refused:
            profile = msgspec.structs.replace(
                profile, measured=tuple(search.measured), refused=refused, alone_s=alone
            )
            for placed, law in search.laws().items():
                profile = profile.with_law(placed.instances, placed.threads, law, time.time())
            await asyncio.to_thread(self._store.write, profile)
        return setting, profile

    async def remember(self, profile: Profile, placed: GridPlacement, laws: ShapeLaws) -> None:
        """Store what live runs show about a placement, merged with what others have stored meanwhile."""
        live = {0: laws.usual, **laws.others()}
        learned = {size: law.law() for size, law in live.items() if law.runs >= _WORTH_KEEPING}
        if learned:
            kept = await asyncio.to_thread(self._store.read, profile.key, profile.machine)
            profile = kept or profile
            for size, law in learned.items():
                profile = profile.with_law(placed.instances, placed.threads, law, time.time(), size)
            await asyncio.to_thread(self._store.write, profile)


def _batched_as(limits: Limits, profile: Profile) -> Limits:
    """Return whether the model has a batch dimension, according to its measurements."""
    is_batched = any(m.cell.rows > 1 for m in profile.measured) or bool(profile.refused)
    return msgspec.structs.replace(limits, batched=limits.batched and is_batched)
