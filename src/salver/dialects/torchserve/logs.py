"""TorchServe's log files (TS-B12).

``access_log.log``, ``ts_log.log`` and ``model_log.log`` in one folder, ``ts_metrics.log`` and
``model_metrics.log`` in another, in TorchServe's line formats. Large files are rotated.
"""

import asyncio
import logging
import logging.handlers
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from salver.encoding.escaping import escape
from salver.words.errors import InvalidInput
from salver.words.events import Answered, Event

_LOG: Final = logging.getLogger("salver.logs")
#: Maximum size of a file before it is rotated, and number of older ones that are kept.
MAX_BYTES: Final = 100 << 20
KEPT: Final = 5
#: Logger of what models print.
MODELS: Final = "salver.engine.host"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"
_LONG: Final = "%(asctime)s [%(levelname)-5s] %(threadName)s %(name)s - %(message)s"
#: Seconds that lines wait, to be written together with others.
_TOGETHER_S: Final = 0.02
_LEVELS: Final = {logging.WARNING: "WARN", logging.CRITICAL: "FATAL"}
#: Keys of a structured message that are no fields.
_NO_FIELDS: Final = frozenset({"event", "timestamp", "level", "logger", "exc_info"})


class TorchServeLogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Folders of TorchServe's log files.

    Attributes:
        folder: Folder of the access log, the server's and the models'.
        metrics: Folder of the metrics logs.
    """

    folder: str = "logs"
    metrics: str = "logs"


class _Lines(logging.Formatter):
    """Formatter of lines as Log4j writes them."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern, _TIME)
        self.default_msec_format = "%s,%03d"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return f"{time.strftime(str(datefmt), time.localtime(record.created))},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord(record.__dict__)
        shown.msg, shown.args = escape(_text(record)), ()
        shown.levelname = _LEVELS.get(record.levelno, record.levelname)
        return super().format(shown)


class _Journal:
    """A file of many short lines; those of one moment are written together."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._waiting: list[str] = []
        self._second, self._shown = -1, ""
        self._timer: asyncio.TimerHandle | None = None
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def add(self, lines: Sequence[str], *, are_safe: bool = False) -> None:
        """Add lines from the event loop's thread.

        Args:
            are_safe: Whether the lines are known to be printable.
        """
        if not lines:
            return
        if not are_safe and not "".join(lines).isprintable():
            lines = [escape(line) for line in lines]
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second, self._shown = second, time.strftime(_TIME, time.localtime(second))
        # strftime() once a second; the milliseconds are appended.
        start = f"{self._shown},{int(now % 1 * 1000):03d} - "
        self._waiting.append(start + f"\n{start}".join(lines) + "\n")
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TOGETHER_S, self.flush)

    def flush(self) -> None:
        """Write the waiting lines. Lines that cannot be written are dropped, with a warning."""
        self._timer = None
        lines, self._waiting = self._waiting, []
        try:
            for text in _batches(lines):
                if self._size and self._size + len(text) > MAX_BYTES:
                    self._rotate()
                self._size += self._file.write(text)
        except OSError as error:
            _LOG.warning("lines of %s are lost: %s", self._path, error.strerror)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self.flush()
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        files = [self._path, *[Path(f"{self._path}.{number}") for number in range(1, KEPT + 1)]]
        for number in range(KEPT, 0, -1):
            if files[number - 1].exists():
                files[number - 1].replace(files[number])
        self._file = self._path.open("ab", buffering=0)
        self._size = 0


class TorchServeLogs:
    """Writer of the log files.

    Args:
        clock: Unix time.

    Raises:
        InvalidInput: a file cannot be written.
    """

    def __init__(self, config: TorchServeLogConfig, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._journals: list[_Journal] = []
        self._handlers: list[logging.Handler] = []
        self._access = self._journal(config.folder, "access_log.log")
        self._metrics = (
            self._journal(config.metrics, "ts_metrics.log"),
            self._journal(config.metrics, "model_metrics.log"),
        )
        self._handle(config.folder, "ts_log.log")
        self._handle(config.folder, "model_log.log").addFilter(logging.Filter(MODELS))

    def __repr__(self) -> str:
        return f"<TorchServeLogs {len(self._journals) + len(self._handlers)} files>"

    def observe(self, events: Sequence[Event]) -> None:
        """Write the answers among events to the access log."""
        self._access.add(
            [
                f'/{event.caller} "{event.verb} {event.target} {event.protocol}" '
                f"{event.status} {int(event.seconds * 1e3)}"
                for event in events
                if type(event) is Answered
            ]
        )

    def metrics(self, lines: Sequence[str], is_models: bool) -> None:
        """Write lines of metrics (:data:`salver.dialects.torchserve.metrics.Sink`)."""
        self._metrics[is_models].add(lines, are_safe=not is_models)

    def close(self) -> None:
        """Close the files."""
        for journal in self._journals:
            journal.close()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._journals.clear()
        self._handlers.clear()

    def _journal(self, folder: str, name: str) -> _Journal:
        path = Path(folder) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = _Journal(path, self._clock)
        except OSError as error:
            self.close()
            raise _unwritable(path, error) from error
        self._journals.append(journal)
        return journal

    def _handle(self, folder: str, name: str) -> logging.Handler:
        path = Path(folder) / name
        try:
            handler = logging.handlers.RotatingFileHandler(path, "a", MAX_BYTES, KEPT, encoding="utf-8")
        except OSError as error:
            self.close()
            raise _unwritable(path, error) from error
        handler.setFormatter(_Lines(_LONG))
        self._handlers.append(handler)
        logging.getLogger().addHandler(handler)
        return handler


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"the log file {path} cannot be written: {error.strerror}",
        fix="Set LOG_LOCATION and METRICS_LOCATION to writable folders.",
    )


def _batches(lines: Sequence[str]) -> list[bytes]:
    """Return lines joined into blocks that are written at once."""
    found: list[bytes] = []
    size, begun = 0, 0
    for index, line in enumerate(lines):
        if size and size + len(line) > MAX_BYTES // 4:
            found.append("".join(lines[begun:index]).encode())
            size, begun = 0, index
        size += len(line)
    if begun < len(lines):
        found.append("".join(lines[begun:]).encode())
    return found


def _text(record: logging.LogRecord) -> str:
    """Return the message of a record with its fields."""
    if not isinstance(record.msg, dict):
        return record.getMessage()
    fields = [f"{key}={value}" for key, value in record.msg.items() if key not in _NO_FIELDS]
    return " ".join([str(record.msg.get("event", "")), *fields]).strip()
