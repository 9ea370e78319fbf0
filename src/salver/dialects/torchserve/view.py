"""Metrics, log files and machine readings for operators who come from TorchServe."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from salver.dialects.torchserve.logs import TorchServeLogConfig, TorchServeLogs
from salver.dialects.torchserve.metrics import TorchServeMetrics, TorchServeMetricsConfig
from salver.kernel.supervise import Supervisor
from salver.words.errors import MissingExtra
from salver.words.events import Event
from salver.words.messages import ModelId

_LOG: Final = logging.getLogger("salver")
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


class Observing(Protocol):
    """Receiver of events."""

    def observe(self, events: Sequence[Event]) -> None:
        """Take a batch of events."""
        ...


class TorchServeViewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics and logs to provide; None = not that.

    Attributes:
        metrics: Metrics under TorchServe's names.
        logs: TorchServe's log files.
    """

    metrics: TorchServeMetricsConfig | None = TorchServeMetricsConfig()
    logs: TorchServeLogConfig | None = TorchServeLogConfig()


def read_machine() -> Mapping[str, float]:
    """Return processor load since the last call, memory and disk use, by TorchServe's metric names (TS-B13).

    Raises:
        MissingExtra: psutil is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise MissingExtra("torchserve", "torchserve", "psutil") from error
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    return {
        "CPUUtilization": float(psutil.cpu_percent()),
        "DiskAvailable": disk.free / _GIB,
        "DiskUsage": disk.used / _GIB,
        "DiskUtilization": float(disk.percent),
        "MemoryAvailable": memory.available / _MIB,
        "MemoryUsed": memory.used / _MIB,
        "MemoryUtilization": float(memory.percent),
    }


class TorchServeView:
    """Metrics and log files, from start to end.

    Args:
        read: Returns readings of the machine.

    Raises:
        InvalidInput: a log file cannot be written.
    """

    def __init__(
        self, config: TorchServeViewConfig, read: Callable[[], Mapping[str, float]] = read_machine
    ) -> None:
        self._config = config
        self._read = read
        self._tasks = Supervisor(_LOG, "there are no metrics of the machine")
        self._logs: TorchServeLogs | None = None
        self.metrics: TorchServeMetrics | None = None
        sink = None
        if config.logs:
            self._logs = TorchServeLogs(config.logs)
            sink = self._logs.metrics
        if config.metrics:
            self.metrics = TorchServeMetrics(config.metrics, socket.gethostname(), sink)

    def __repr__(self) -> str:
        return f"<TorchServeView {self.metrics!r} {self._logs!r}>"

    @property
    def observers(self) -> list[Observing]:
        """Return the observers of events."""
        return [each for each in (self.metrics, self._logs) if each is not None]

    def add_lines(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        """Take the lines that a handler's metrics have written."""
        if self.metrics is not None:
            self.metrics.add_lines(id, worker, lines)

    def start(self) -> None:
        """Start reading the machine periodically."""
        if self.metrics is not None and self._config.metrics and (every := self._config.metrics.machine_s):
            self._tasks.start("machine", self._look(self.metrics, every))

    def close(self) -> None:
        """Stop reading the machine and close the files."""
        self._tasks.cancel()
        if self._logs is not None:
            self._logs.close()

    async def _look(self, counts: TorchServeMetrics, every: float) -> None:
        """Read the machine until cancelled, or until psutil turns out to be missing."""
        while True:
            counts.machine(await asyncio.to_thread(self._read))
            await asyncio.sleep(every)
