"""Training of the learned rule's table while the server runs.

:class:`TableUpdater` observes one engine: it requests a table once the batch law is known, another one when
the law has changed, and refines it with live transitions. The computation runs in a separate process (this
module's ``main``), because some tenths of a second of CPU would add latency here. The two exchange lines of
JSON.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import numpy as np

from salver.features.tuning.qlearning import Agent
from salver.features.tuning.simulator import poisson, simulate
from salver.features.tuning.training import LOADS, Learner, price_of, report, solved_table
from salver.kernel.engine.learned import LearnedRule, TrainingRule
from salver.kernel.supervise import Faults, Supervisor, every
from salver.stats import batch_table
from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.stats.batch_table import Table, Transition
from salver.words.artifacts import Batching
from salver.words.errors import InvalidInput, SalverError

_LOG = logging.getLogger("salver.teaching")
_EVERY_S = 5.0
_ENOUGH_RUNS = 64  # before a law is good enough for a table
_ENOUGH_SEEN = 500  # transitions needed for a lesson
_DRIFT = 0.1  # relative difference of run times between different laws
_TRAINED = 6_000  # arrivals of a simulated round
_ROUNDS = 4
_MOST_LINE = 8 << 20
_PATIENCE_S = 120.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class TableRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request to the process: a table for this law, after these transitions."""

    batching: Batching
    law: BatchLaw
    transitions: tuple[Transition, ...] = ()


_read_lesson: Final = msgspec.json.Decoder(TableRequest).decode


class TableUpdater:
    """Updater of one rule's table. Created by :meth:`start`.

    Args:
        law: Returns the engine's law, updated by live runs.
        kept: A stored table.
        save: Called with every new table's bytes.
    """

    def __init__(
        self,
        rule: LearnedRule,
        law: LiveLaw,
        batching: Batching,
        thinking: "TableProcess",
        kept: Table | None = None,
        save: Callable[[bytes], None] | None = None,
    ) -> None:
        self._rule = rule
        self._law = law
        self._batching = batching
        self._thinking = thinking
        self._save = save
        self._is_told = law.is_known  # from a profile, before the first live run
        self._table: Table | None = None
        self._tasks = Supervisor(_LOG, "tables are not made any more")
        if kept is not None and kept.price == price_of(batching.learned, kept.law):
            rule.adopt(kept)
            self._table = kept

    def start(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Start checking every few seconds."""
        faults = Faults(_LOG, "no table to batch by, the queue is drained", level=logging.WARNING)
        self._tasks.start("teaching", every(_EVERY_S, self._try, faults, sleep))

    async def close(self) -> None:
        """Stop, and end the process."""
        await self._tasks.close()
        await self._thinking.close()

    async def tick(self) -> bool:
        """Request a table if there is a reason to; return whether a new one was adopted."""
        seen: tuple[Transition, ...] = ()
        if self._table is None or self._is_stale(self._table):
            if self._law.runs < _ENOUGH_RUNS and not self._is_told:
                return False
        elif self._batching.learned.method == "trained" and len(self._rule.transitions) >= _ENOUGH_SEEN:
            seen = tuple(self._rule.transitions)
        else:
            return False
        self._rule.transitions.clear()
        table = await self._thinking.ask(TableRequest(self._batching, self._law.law(), seen))
        if self._batching.learned.method == "exact":
            await self._thinking.close()  # it keeps nothing for the next lesson
        self._rule.adopt(table)
        if self._table is None or self._table.rows != table.rows:
            _LOG.info("new batching table:\n%s", report(table))
            if self._save is not None:
                await asyncio.to_thread(self._save, batch_table.to_bytes(table))
        self._table = table
        return True

    def _is_stale(self, table: Table) -> bool:
        """Return whether the table was made for a law that no longer holds."""
        return self._law.is_known and not table.is_for(self._law.law(), table.price, _DRIFT)

    async def _try(self) -> None:
        try:
            await self.tick()
        except (OSError, TimeoutError):
            _LOG.exception("the process that computes batching tables failed and will be restarted")
            await self._thinking.close()


class TableProcess:
    """Process that makes tables, started with the first lesson."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, lesson: TableRequest) -> Table:
        """Return a table.

        Raises:
            InvalidInput: there is none for this law.
            OSError, TimeoutError: the process ended, or does not answer.
        """
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "salver.features.tuning.online_training",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MOST_LINE,
                start_new_session=True, env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None and answers is not None
        pipe.write(msgspec.json.encode(lesson) + b"\n")
        async with asyncio.timeout(_PATIENCE_S):
            await pipe.drain()
            line = await answers.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the process that makes tables ended")
        if line.startswith(b"!"):
            raise InvalidInput(line[1:].decode().strip())
        return batch_table.from_bytes(line)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class TableTrainer:
    """State of the process: a learner for the law of the first lesson, trained in the simulator."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._learner: Learner | None = None

    def learn(self, lesson: TableRequest) -> Table:
        """Return the table after a lesson.

        Raises:
            InvalidInput: there is none for this law.
        """
        batching, law = lesson.batching, lesson.law
        price = price_of(batching.learned, law)
        if batching.learned.method == "exact":
            return solved_table(law, price, batching.max_rows)
        if self._learner is None or not lesson.transitions:
            self._learner = Learner(law, price, batching.max_rows, self._rng, LOADS)
            self._learner.train(lambda agent, rate: self._play(batching, law, agent, rate), _ROUNDS)
        else:
            self._learner.refine(lesson.transitions)
        return self._learner.table(law)

    def _play(self, batching: Batching, law: BatchLaw, agent: Agent, rate: float) -> None:
        """Simulate Poisson traffic at that rate through the real queue."""
        boundless = msgspec.structs.replace(batching, max_queue=1 << 30)
        times = poisson(rate, _TRAINED, self._rng).tolist()
        simulate(boundless, times, law.seconds, rule=TrainingRule(agent))


def main() -> None:
    """Answer lessons until the input ends, with a table's JSON, or ``!`` and the reason why there is none."""
    with contextlib.suppress(OSError):
        os.nice(10)  # requests have priority
    pupil = TableTrainer()
    for line in sys.stdin.buffer:
        try:
            answer = batch_table.to_bytes(pupil.learn(_read_lesson(line)))
        except SalverError as error:
            answer = b"!" + str(error).replace("\n", " ").encode()
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
