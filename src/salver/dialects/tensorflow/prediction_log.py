"""Observer that writes sampled requests with their answers to files, on another thread.

It keeps :data:`LIMIT` bytes of tensors at most. Requests that come faster than the disk can write are lost
and counted.
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
    """Log of requests and answers.

    Args:
        folder: Folder of the files.
        limit: Bytes of tensors that may wait.

    Raises:
        InvalidInput: The folder cannot hold files.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, limit: int = LIMIT) -> None:
        self._files = RecordFiles(folder, clock)
        self._clock = clock
        self._limit = limit
        self._waiting: list[Predicted] = []
        self._size = 0  # bytes waiting
        self._tasks = Supervisor(_LOG, "predictions are lost")
        self._counts: Counter[tuple[str, str]] = Counter()
        self._warned: set[str] = set()  # models whose first loss has been logged

    def __repr__(self) -> str:
        return f"<PredictionLog {len(self._waiting)} waiting, {self._counts.total()} seen>"

    def observe(self, events: Sequence[Event]) -> None:
        """Keep the events that have to be written."""
        for event in events:
            if type(event) is not Predicted:
                continue
            size = size_of(event)
            if self._size + size > self._limit:
                self._lose(event, "RESOURCE_EXHAUSTED", "they come faster than the disk can write")
                continue
            self._size += size
            self._waiting.append(event)
        if self._waiting:
            self._tasks.start_unless_running("write predictions", self._write)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the number of records by model and status; ``OK`` were written."""
        return dict(self._counts)

    @property
    def lost(self) -> int:
        """Number of records that were not written."""
        return sum(count for (_, status), count in self._counts.items() if status != "OK")

    async def close(self) -> None:
        """Wait until everything is written."""
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
                    self._lose(event, status, why)
            self._size -= size  # only now is the memory free

    def _write_all(self, events: Sequence[Predicted]) -> list[tuple[Predicted, str, str]]:
        """Write events, on a thread; return each with its status and error."""
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

    def _lose(self, event: Predicted, status: str, why: str) -> None:
        model = event.response.model
        self._counts[model, status] += 1
        if model not in self._warned:
            self._warned.add(model)
            _LOG.warning("requests to %s are not logged: %s", model, why)
