"""Measurement of a model's run times by concurrency, threads and rows.

Opens real runners and measures cells on them, off any request's path. It chooses nothing.
"""

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Mapping

import numpy as np

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.features.tuning.grid import GridPlacement
from salver.features.tuning.profile import Cell, Measurement
from salver.kernel.engine.ports import Runner
from salver.kernel.engine.warmup import samples
from salver.kernel.serving.warmup_requests import warm_request
from salver.words.artifacts import Manifest, Warmup
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import Signature
from salver.words.tensor import Array

_OPEN = 2  # maximum number of open runners; each may hold another copy of the weights
_FEWEST, _MOST = 3, 300  # minimum runs of an instance
_SLOW_S = 0.3  # a single run this long is enough

#: Opens a runner for a placement.
OpenRunner = Callable[[GridPlacement], Awaitable[Runner]]


class Bench:
    """Measurement of the cells of one model version.

    Args:
        open_runner: Returns a runner for a placement; closed by this object.
        clock: Monotonic seconds.
        cell_s: Seconds of measurement per cell.
    """

    def __init__(
        self, manifest: Manifest, open_runner: OpenRunner, clock: Callable[[], float], cell_s: float = 0.25
    ) -> None:
        self._manifest = manifest
        self._open_runner = open_runner
        self._clock = clock
        self._cell_s = cell_s
        self._runners: dict[GridPlacement, Runner] = {}  # ordered by last use
        self._row: Mapping[str, Array] | None = None

    def __repr__(self) -> str:
        return f"<Bench {self._manifest.id}, {', '.join(map(str, self._runners)) or 'nothing loaded'}>"

    @property
    def placements(self) -> tuple[GridPlacement, ...]:
        """Return the placements whose runners are open."""
        return tuple(self._runners)

    async def runner(self, placed: GridPlacement) -> Runner:
        """Return the runner of a placement, opening it if necessary; another one may be closed for it.

        Raises:
            LoadFailed: it cannot be opened.
        """
        runner = self._runners.pop(placed, None)
        if runner is None:
            while len(self._runners) >= _OPEN:
                oldest = next(iter(self._runners))
                await self._runners.pop(oldest).close()
            runner = await self._open_runner(placed)
        self._runners[placed] = runner
        return runner

    async def keep(self, placed: GridPlacement) -> Runner:
        """Return the runner of a placement to keep; all others are closed."""
        runner = await self.runner(placed)
        del self._runners[placed]
        await self.close()
        return runner

    async def close(self) -> None:
        """Close every runner."""
        runners, self._runners = list(self._runners.values()), {}
        await asyncio.gather(*(runner.close() for runner in runners))

    async def alone(self, placed: GridPlacement) -> float:
        """Return the seconds of a run of the smallest size on a warm model.

        Raises:
            SalverError: the model rejects generated inputs, or those of its warm-up file.
        """
        runner = await self.runner(placed)
        inputs = await self._inputs(runner.signature, 1)
        _, first = await runner.run(inputs)
        if first > _SLOW_S:
            return first
        return min([first, *[(await runner.run(inputs))[1] for _ in range(3)]])

    async def shapes(self, placed: GridPlacement) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs for one row."""
        inputs = await self._inputs((await self.runner(placed)).signature, 1)
        return {name: array.shape for name, array in inputs.items()}

    async def row_size(self, placed: GridPlacement) -> int:
        """Return the elements of a row as measured; 0 if shapes are fixed or no inputs can be generated."""
        signature = (await self.runner(placed)).signature
        first = 1 if signature.batched else 0
        if not any(-1 in spec.shape[first:] for spec in signature.inputs):
            return 0
        try:
            shapes = await self.shapes(placed)
        except SalverError:
            return 0
        return sum(math.prod(shape[first:]) for shape in shapes.values())

    async def measure(self, cell: Cell) -> tuple[Measurement, list[float]]:
        """Run a cell repeatedly with all its instances busy.

        Returns:
            The measurement, by the median, and the seconds of every run.

        Raises:
            SalverError: the placement is not available, or the model rejects the batch.
        """
        runner = await self.runner(GridPlacement(cell.instances, cell.threads))
        inputs = await self._inputs(runner.signature, cell.rows)
        await asyncio.gather(*(runner.run(inputs) for _ in range(cell.instances)))
        until = self._clock() + self._cell_s
        loops = await asyncio.gather(*(self._repeat(runner, inputs, until) for _ in range(cell.instances)))
        runs = [seconds for loop in loops for seconds in loop]
        typical = statistics.median(runs)
        return Measurement(cell, typical, cell.instances * cell.rows / typical), runs

    async def _repeat(self, runner: Runner, inputs: Mapping[str, Array], until: float) -> list[float]:
        runs: list[float] = []
        while len(runs) < _MOST:
            _, seconds = await runner.run(inputs)
            runs.append(max(seconds, 1e-9))
            if self._clock() >= until and (len(runs) >= _FEWEST or seconds > _SLOW_S):
                break
        return runs

    async def _inputs(self, signature: Signature, rows: int) -> dict[str, Array]:
        """Return inputs of that many rows: the repeated warm-up request, or zeros."""
        wish = self._manifest.config.warmup
        if not wish.file:
            return next(samples(signature, Warmup((rows,), 1, wish.free_dim)))
        if self._row is None:
            request = await warm_request(self._manifest, wish.file, signature, OpenInferenceHttp().decode)
            self._row = {tensor.name: tensor.array for tensor in request.inputs}
        if not signature.batched:
            return dict(self._row)
        if any(not array.shape or not array.shape[0] for array in self._row.values()):
            raise InvalidInput(f"the warm-up request {wish.file} has no row")
        return {name: array[np.arange(rows) % array.shape[0]] for name, array in self._row.items()}
