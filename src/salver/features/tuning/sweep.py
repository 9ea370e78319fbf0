"""Search for one model from the command line: quick, then optionally the whole grid.

Like the search in ``salver serve`` for a model with an objective, but with progress and without its short
time limit. It knows no command line.
"""

import asyncio
import time

import msgspec
import numpy as np

from salver.backends.protocol import Backend, Cost, CountingBackend
from salver.features.tuning.bench import Bench
from salver.features.tuning.ceilings import ceilings
from salver.features.tuning.choose import Setting
from salver.features.tuning.grid import GridPlacement, Limits
from salver.features.tuning.judgement import Judge
from salver.features.tuning.profile import Cell, Measurement, Profile
from salver.features.tuning.profiles import ProfileStore, machine
from salver.features.tuning.profiling import limits_of, run_search
from salver.features.tuning.progress import SearchProgress
from salver.features.tuning.results import Roofline, TuningResult, compare, feasible_rates, gains
from salver.features.tuning.search import Search
from salver.kernel.engine.placement import Placement, place
from salver.kernel.engine.ports import Runner
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.machine import usable_cores
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import Signature

_ARRIVALS = 4000  # simulated requests per setting


class Sweep:
    """Search for one model.

    Args:
        manifest: Manifest whose configuration has the objective and fixed settings.
        seconds: Start no measurement after this many seconds.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        witness: SearchProgress,
        seconds: float,
        trust_pickle: bool,
    ) -> None:
        self._manifest = manifest
        self._backend = backend
        self._witness = witness
        self._seconds = seconds
        self._cores = usable_cores()
        self._placement = place(backend.traits, manifest.config.instances, self._cores)
        terms = Terms(self._cores, trust_pickle)
        self._loader = Loader({backend.name: backend}, Bus(()), time.monotonic, terms)
        self._bench = Bench(manifest, self._open, time.monotonic)
        self._judge = Judge(np.random.default_rng(1).exponential(1.0, _ARRIVALS))

    async def run(self, *, exhaustive: bool = False, rows: int = 0) -> tuple[TuningResult, Profile]:
        """Search; return the choice, and the profile to store.

        Args:
            exhaustive: Measure the whole grid after the choice, and compare.
            rows: Maximum rows of a batch; 0 = as configured.

        Raises:
            LoadFailed: the model cannot be loaded.
            ModelFailed: it rejects generated inputs, or nothing could be measured.
        """
        manifest, objective = self._manifest, self._manifest.config.objective
        key, here = ProfileStore().key(manifest), machine(self._backend, self._cores)
        until = time.monotonic() + self._seconds
        try:
            limits, alone = await self._first(rows)
            search = Search(limits, objective, alone)
            refused = await self._quick(search, until)
            judge = self._judge if limits.batched else None
            setting = search.setting(judge)
            if setting is None:
                raise ModelFailed(
                    f"nothing could be measured of model '{manifest.id.name}' in {self._seconds:g} s",
                    fix="Give it more --seconds.",
                )
            compared, cells = None, len(search.measured)
            if exhaustive:
                refused += await self._rest(search, until, refused)
                compared = compare(setting, cells, objective, search, judge)
            shapes = await self._bench.shapes(limits.placements()[0])
            signature = (await self._bench.runner(limits.placements()[0])).signature
        finally:
            await self._bench.close()
        roofline = await asyncio.to_thread(self._roofline, setting, shapes)
        feasible = feasible_rates(setting, objective, limits, judge)
        measured = tuple(search.measured)
        profile = Profile(key, here, measured=measured, refused=refused, alone_s=alone)
        for placed, law in search.laws().items():
            profile = profile.with_law(placed.instances, placed.threads, law, time.time())
        name, slower = manifest.id.name, gains(setting)
        found = TuningResult(
            name, objective, setting, measured, feasible, roofline, slower, compared, self._notes(signature)
        )
        return found, profile

    async def _first(self, rows: int) -> tuple[Limits, float]:
        """Return the open choices, and the seconds of a single run."""
        config = self._manifest.config
        limits = limits_of(config, config.instances, self._placement, self._backend, self._cores)
        first = limits.placements()[0]
        signature = (await self._bench.runner(first)).signature
        batched = limits.batched and signature.batched
        limits = msgspec.structs.replace(limits, batched=batched, rows=rows or limits.rows)
        try:
            return limits, await self._bench.alone(first)
        except (ModelFailed, InvalidInput) as error:
            if config.warmup.file:
                raise
            raise ModelFailed(
                f"model '{self._manifest.id.name}' does not take inputs of zeros: {error}",
                fix="Put a request that it takes (Open Inference JSON) beside the model file, and name it in "
                'salver.toml: warmup.file = "request.json"',
            ) from error

    async def _quick(self, search: Search, until: float) -> tuple[Cell, ...]:
        def told(found: Measurement) -> None:
            self._witness.measured(found)
            ahead()

        def ahead() -> None:
            if (cell := search.ask()) is not None:
                self._witness.begins(cell, search.budget)

        ahead()
        return await run_search(search, self._bench, until, time.monotonic, told)

    async def _rest(self, search: Search, until: float, refused: tuple[Cell, ...]) -> tuple[Cell, ...]:
        """Measure the rest of the grid; return the cells that could not be measured."""
        cells = search.limits.cells()
        known = {found.cell for found in search.measured} | set(refused)
        failed: list[Cell] = []
        for cell in cells:
            if cell in known or time.monotonic() >= until:
                continue
            self._witness.begins(cell, len(cells))
            try:
                found, runs = await self._bench.measure(cell)
            except SalverError:
                failed.append(cell)
            else:
                search.tell(found, runs)
                self._witness.measured(found)
        return tuple(failed)

    def _notes(self, signature: Signature) -> tuple[str, ...]:
        warmup = self._manifest.config.warmup
        first = 1 if signature.batched else 0
        is_free = any(-1 in spec.shape[first:] for spec in signature.inputs)
        if warmup.file or warmup.free_dim > 1 or not is_free:
            return ()
        return (
            "Its inputs have free extents, which were 1 here: set warmup.free_dim or warmup.file in "
            "salver.toml to what callers send.",
        )

    def _roofline(self, setting: Setting, shapes: dict[str, tuple[int, ...]]) -> Roofline:
        """Measure the roofline. Blocking, with nothing else running."""
        backend = self._backend
        if not isinstance(backend, CountingBackend):
            note = f"the operations of a model of the backend {backend.name!r} cannot be counted"
            return Roofline(Cost(notes=(note,)))
        cost = backend.cost(self._manifest, shapes)
        if not cost.flops_a_row + cost.int8_ops_a_row:
            return Roofline(cost)
        return Roofline(cost, ceilings(backend, cost, setting.instances, setting.threads))

    async def _open(self, placed: GridPlacement) -> Runner:
        placement = Placement(self._placement.runner, placed.instances, placed.threads)
        return await self._loader.open_runner(self._backend, self._manifest, placement)
