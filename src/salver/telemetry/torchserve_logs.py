"""What stands in TorchServe's log files, and in which (TS-B12)?

``access_log.log``, ``ts_log.log`` and ``model_log.log`` in one folder, ``ts_metrics.log`` and
``model_metrics.log`` in another, with lines of its forms. A file that has grown large is kept beside, and
begun anew.
"""

import logging
import logging.handlers
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.errors import InvalidInput
from salver.events import Answered, Event
from salver.telemetry.logs import escape

#: Of a file, before it is begun anew; and how many older ones are kept.
MAX_BYTES: Final = 100 << 20
KEPT: Final = 5
#: The logger of what models print.
MODELS: Final = "salver.engine.host"
_SHORT: Final = "%(asctime)s - %(message)s"
_LONG: Final = "%(asctime)s [%(levelname)-5s] %(threadName)s %(name)s - %(message)s"
_LEVELS: Final = {logging.WARNING: "WARN", logging.CRITICAL: "FATAL"}


class TorchServeLogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where TorchServe's log files are.

    Attributes:
        folder: Of the access log, the server's and the models'.
        metrics: Of both metrics' logs.
    """

    folder: str = "logs"
    metrics: str = "logs"


class _Lines(logging.Formatter):
    """A line of Log4j's."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern, "%Y-%m-%dT%H:%M:%S")
        self.default_msec_format = "%s,%03d"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return f"{time.strftime(str(datefmt), time.localtime(record.created))},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord(record.__dict__)
        shown.msg, shown.args = escape(_text(record)), ()
        shown.levelname = _LEVELS.get(record.levelno, record.levelname)
        return super().format(shown)


class TorchServeLogs:
    """Writes the files.

    Raises:
        InvalidInput: one cannot be written.
    """

    def __init__(self, config: TorchServeLogConfig) -> None:
        self._files: list[logging.Handler] = []
        self._access = self._logger("ACCESS_LOG", config.folder, "access_log.log")
        self._metrics = (
            self._logger("TS_METRICS", config.metrics, "ts_metrics.log"),
            self._logger("MODEL_METRICS", config.metrics, "model_metrics.log"),
        )
        self._server = self._file(config.folder, "ts_log.log", _LONG)
        self._models = self._file(config.folder, "model_log.log", _LONG)
        self._models.addFilter(logging.Filter(MODELS))
        for handler in (self._server, self._models):
            logging.getLogger().addHandler(handler)

    def __repr__(self) -> str:
        return f"<TorchServeLogs {len(self._files)} files>"

    def observe(self, events: Sequence[Event]) -> None:
        """Write down the answers among them."""
        for event in events:
            if type(event) is Answered:
                said = (
                    f'/{event.caller} "{event.verb} {event.target} {event.protocol}" '
                    f"{event.status} {int(event.seconds * 1e3)}"
                )
                self._write(self._access, said)

    def metric(self, line: str, is_models: bool) -> None:
        """Write down a metric (:data:`salver.telemetry.torchserve_metrics.Sink`)."""
        self._write(self._metrics[is_models], line)

    def close(self) -> None:
        """Let go of the files."""
        for handler in self._files:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._files.clear()

    def _logger(self, name: str, folder: str, file: str) -> tuple[str, logging.Handler]:
        return name, self._file(folder, file, _SHORT)

    def _file(self, folder: str, name: str, pattern: str) -> logging.Handler:
        path = Path(folder) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(path, "a", MAX_BYTES, KEPT, encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"the log file {path} cannot be written: {error.strerror}",
                fix="Set LOG_LOCATION and METRICS_LOCATION to folders that can be.",
            ) from error
        handler.setFormatter(_Lines(pattern))
        self._files.append(handler)
        return handler

    def _write(self, where: tuple[str, logging.Handler], text: str) -> None:
        name, handler = where
        handler.handle(logging.LogRecord(name, logging.INFO, "", 0, text, (), None))


def _text(record: logging.LogRecord) -> str:
    """What it says, with its fields behind it."""
    if not isinstance(record.msg, dict):
        return record.getMessage()
    fields = {key: value for key, value in record.msg.items() if key not in _KNOWN}
    said = " ".join([f"{key}={value}" for key, value in fields.items()])
    return f"{record.msg.get('event', '')} {said}".strip()


_KNOWN: Final = frozenset({"event", "timestamp", "level", "logger", "exc_info"})
