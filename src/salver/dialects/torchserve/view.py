"""What does an operator look at who comes from TorchServe?

Its metrics, its log files and the state of the machine, as far as they are wanted; here they begin and end.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from salver.dialects.torchserve import machine_metrics as machine
from salver.dialects.torchserve.logs import TorchServeLogConfig, TorchServeLogs
from salver.dialects.torchserve.metrics import TorchServeMetrics, TorchServeMetricsConfig
from salver.kernel.supervise import Supervisor
from salver.words.events import Event
from salver.words.messages import ModelId

_LOG: Final = logging.getLogger("salver")


class Observing(Protocol):
    """Is told of events."""

    def observe(self, events: Sequence[Event]) -> None:
        """In batches."""
        ...


class TorchServeViewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is shown; None = not that.

    Attributes:
        metrics: Under TorchServe's names.
        logs: In its files.
    """

    metrics: TorchServeMetricsConfig | None = TorchServeMetricsConfig()
    logs: TorchServeLogConfig | None = TorchServeLogConfig()


class TorchServeView:
    """Shows it.

    Args:
        read: How busy the machine is.

    Raises:
        InvalidInput: a log file cannot be written.
    """

    def __init__(
        self, config: TorchServeViewConfig, read: Callable[[], Mapping[str, float]] = machine.read
    ) -> None:
        self._config = config
        self._read = read
        self._tasks = Supervisor(_LOG, "there are no metrics of the machine")
        self._logs = TorchServeLogs(config.logs) if config.logs else None
        sink = self._logs.metrics if self._logs else None
        named = config.metrics
        self.metrics = TorchServeMetrics(named, socket.gethostname(), sink) if named else None

    def __repr__(self) -> str:
        return f"<TorchServeView {self.metrics!r} {self._logs!r}>"

    @property
    def observers(self) -> list[Observing]:
        """To be told of events."""
        return [each for each in (self.metrics, self._logs) if each is not None]

    def heard(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        """Take the lines that a handler's metrics have written."""
        if self.metrics is not None:
            self.metrics.heard(id, worker, lines)

    def start(self) -> None:
        """Look at the machine from now on, as often as is wanted."""
        if self.metrics is not None and self._config.metrics and (every := self._config.metrics.machine_s):
            self._tasks.start("machine", self._look(self.metrics, every))

    def close(self) -> None:
        """Look no more, and let go of the files."""
        self._tasks.cancel()
        if self._logs is not None:
            self._logs.close()

    async def _look(self, counts: TorchServeMetrics, every: float) -> None:
        """Look until it is cancelled, or the library for it is missing."""
        while True:
            counts.machine(await asyncio.to_thread(self._read))
            await asyncio.sleep(every)
