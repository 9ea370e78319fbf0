"""How do sampled requests and their answers reach the disk without slowing others?

An observer on the bus: it keeps what is to be written, at most :data:`LIMIT` bytes of tensors, and has it
written on another thread. What comes faster than the disk takes it is lost, and counted.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from salver.dialects.tensorflow.log_records import log_record, size_of
from salver.dialects.tensorflow.recordfile import RecordFiles
from salver.dialects.tensorflow.tfrecord import record
from salver.kernel.supervise import Supervisor
from salver.words.errors import SalverError
from salver.words.events import Event, Predicted

_LOG = logging.getLogger("salver.predictions")
#: Bytes of tensors that may wait to be written.
LIMIT = 64 << 20


class PredictionLog:
    """Writes requests down with their answers.

    Args:
        folder: Where the files are to lie.
        limit: Bytes of tensors that may wait.

    Raises:
        InvalidInput: no file can be there.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, limit: int = LIMIT) -> None:
        self._files = RecordFiles(folder, clock)
        self._clock = clock
        self._limit = limit
        self._waiting: list[Predicted] = []
        self._size = 0  # of what waits
        self._tasks = Supervisor(_LOG, "predictions are lost")
        self._counts: Counter[tuple[str, str]] = Counter()
        self._told: set[str] = set()  # models of which a loss was told

    def __repr__(self) -> str:
        return f"<PredictionLog {len(self._waiting)} waiting, {self._counts.total()} seen>"

    def observe(self, events: Sequence[Event]) -> None:
        """Keep those that are to be written."""
        for event in events:
            if type(event) is not Predicted:
                continue
            size = size_of(event)
            if self._size + size > self._limit:
                self._lost(event, "RESOURCE_EXHAUSTED", "they come faster than the disk takes them")
                continue
            self._size += size
            self._waiting.append(event)
        if self._waiting:
            self._tasks.start_unless_running("write predictions", self._write)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Records by model and the name of a status; ``OK`` were written."""
        return dict(self._counts)

    @property
    def lost(self) -> int:
        """Those that were not written."""
        return sum(count for (_, status), count in self._counts.items() if status != "OK")

    async def close(self) -> None:
        """Returns when all that was kept is written."""
        await self._tasks.join()
        await asyncio.to_thread(self._files.close)

    async def _write(self) -> None:
        while self._waiting:
            events, self._waiting = self._waiting, []
            size = self._size
            for event, status, why in await asyncio.to_thread(self._write_all, events):
                if status == "OK":
                    self._counts[event.response.model, status] += 1
                else:
                    self._lost(event, status, why)
            self._size -= size  # until then it is in memory

    def _write_all(self, events: Sequence[Predicted]) -> list[tuple[Predicted, str, str]]:
        """Each event with what became of it; on a thread."""
        done = []
        for event in events:
            status, why = "OK", ""
            try:
                content = record(log_record(event, int(self._clock())))
                self._files.append(event.response.model, event.wish, content)
            except OSError as error:
                status, why = "UNAVAILABLE", str(error)
            except SalverError as error:
                status, why = "INVALID_ARGUMENT", str(error)
            except Exception as error:
                status, why = "INTERNAL", repr(error)
            done.append((event, status, why))
        self._files.flush()
        return done

    def _lost(self, event: Predicted, status: str, why: str) -> None:
        model = event.response.model
        self._counts[model, status] += 1
        if model not in self._told:
            self._told.add(model)
            _LOG.warning("requests to %s are not written down: %s", model, why)
