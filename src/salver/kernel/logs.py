"""Logging: one format for Salver's own lines and those of libraries.

Everything goes through the standard library's root logger and one handler: for people on a console, or as one
JSON object per line. A message may be a dictionary of fields, of which ``event`` is the text. Nothing happens
at import; the application calls :func:`configure` once. Control characters from outside are escaped, so that
nobody can forge a line or control a terminal; repeated warnings are rate-limited.
"""

import logging
import sys
import textwrap
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import msgspec
import orjson

from salver.encoding.escaping import escape
from salver.words.errors import InvalidInput

_Fields = dict[str, Any]
#: A warning or error is logged this often within :data:`WINDOW_SECONDS`, then suppressed.
BURST = 5
WINDOW_SECONDS = 10.0
_REMEMBERED = 256
#: Libraries that log headers, signatures or passwords at the level ``debug``, which is then not logged.
_TALKATIVE: Final = (
    *("aiobotocore", "aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs", "google", "h2", "hpack"),
    *("httpcore", "httpx", "msal", "psycopg", "redis", "requests_oauthlib", "s3fs", "urllib3"),
)
#: From the least to the most severe.
LEVELS: Final = ("debug", "info", "warning", "error")


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Levels, format and destination of the log.

    Attributes:
        format: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        access_log: One line for no request, for failed ones, or for all.
        file: File to append to; empty = standard error.
        silenced: Levels from ``level`` up that are not logged.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access_log: Literal["off", "errors", "all"] = "off"
    file: str = ""
    silenced: tuple[Literal["info", "warning", "error"], ...] = ()

    def is_json(self) -> bool:
        """Return whether lines on standard error are JSON objects."""
        return self.format == "json" or (self.format == "auto" and not sys.stderr.isatty())

    def levels(self) -> frozenset[int]:
        """Return the logged levels in the form of :func:`let_through`."""
        logged = (level for level in LEVELS[LEVELS.index(self.level) :] if level not in self.silenced)
        return frozenset(getattr(logging, level.upper()) for level in logged)


def configure(
    config: LogConfig, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> None:
    """Send all logging to ``stream``, else to the configured file. A second call replaces the first.

    Only Salver's handler is replaced: those of an embedding application stay.

    Raises:
        InvalidInput: the file cannot be written.
    """
    if stream is None:
        stream = sys.stderr
        if config.file:
            stream = _opened(config.file)
    terminal = stream.isatty()
    as_json = config.format == "json" or (config.format == "auto" and not terminal)
    handler = _Handler(stream)
    handler.addFilter(_Repetition(clock))
    handler.setFormatter(_Formatter(_to_json if as_json else _console(terminal)))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    let_through(config.levels())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)


def let_through(levels: frozenset[int]) -> bool:
    """Log only these levels from now on; return False if :func:`configure` was not called.

    Args:
        levels: Subset of ``logging.DEBUG``, ``INFO``, ``WARNING`` and ``ERROR``; each includes what is less
            severe than the next one.
    """
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, _Handler)]
    for handler in ours:
        handler.levels = levels
    if ours:
        root.setLevel(min(levels, default=logging.CRITICAL + 1))
    return bool(ours)


def reopen(config: LogConfig) -> None:
    """Reopen the log file by name, because it may have been rotated."""
    if not config.file:
        return
    for handler in [h for h in logging.getLogger().handlers if isinstance(h, _Handler)]:
        try:
            old = handler.setStream(_opened(config.file))
        except InvalidInput as error:
            logging.getLogger("salver").error(
                "cannot reopen the log file; still writing to the old one: %s", error
            )
            return
        if old is not None:
            old.close()


def _opened(path: str) -> TextIO:
    try:
        return Path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"the log file {path} cannot be written: {error.strerror}") from error


class _Handler(logging.StreamHandler[TextIO]):
    """Salver's handler, to distinguish it from others on the root logger."""

    levels: frozenset[int] = frozenset()

    def filter(self, record: logging.LogRecord) -> bool:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.ERROR)
        return level in self.levels and bool(super().filter(record))


class _Repetition(logging.Filter):
    """Rate limit of repeated warnings within a window.

    The number of suppressed lines is reported with the first one after the window.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], list[float]] = OrderedDict()  # start, logged, suppressed

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        said = record.msg if isinstance(record.msg, dict) else {"event": str(record.msg)}
        key = (record.name, record.levelno, str(said.get("event")), str(said.get("model", "")))
        now = self._clock()
        entry = self._seen.get(key)
        if entry is None or now - entry[0] >= WINDOW_SECONDS:
            held = 0 if entry is None else int(entry[2])
            entry = self._seen[key] = [now, 0, 0]
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            if held and isinstance(record.msg, dict):
                record.msg = {**record.msg, "repeated": held}
            elif held:
                record.msg, record.args = f"{record.getMessage()} (repeated {held} times)", ()
        if entry[1] < BURST:
            entry[1] += 1
            return True
        entry[2] += 1
        return False


class _Formatter(logging.Formatter):
    """Writes a record, whose message may be a dictionary of fields with the event, as one line."""

    def __init__(self, render: Callable[[_Fields], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(record.msg) if isinstance(record.msg, dict) else {"event": record.getMessage()}
        fields["level"] = record.levelname.lower()
        fields["logger"] = record.name
        fields["timestamp"] = f"{datetime.now(UTC).replace(tzinfo=None).isoformat()}Z"
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack_info"] = record.stack_info
        return self._render(_escaped(fields))


def _escaped(fields: _Fields) -> _Fields:
    for key, value in fields.items():
        if key in ("exception", "stack"):
            fields[key] = escape(str(value), keeps_lines=True)
        elif not isinstance(value, bool | int | float | None):
            fields[key] = escape(str(value))
    return fields


def _to_json(fields: _Fields) -> str:
    first = {key: fields.pop(key) for key in ("timestamp", "level", "event", "logger")}
    return orjson.dumps({**first, **fields}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _console(terminal: bool) -> Callable[[_Fields], str]:
    from structlog.dev import ConsoleRenderer  # brings colours and much else; lines of JSON need none of it

    render = ConsoleRenderer(colors=terminal, pad_event_to=0, pad_level=False, sort_keys=False)

    def indented(fields: _Fields) -> str:
        for key in fields.keys() & {"exception", "stack"}:
            # so that no continuation line looks like a line of its own
            fields[key] = textwrap.indent(fields[key], "    ")
        return render(None, str(fields["level"]), fields)

    return indented


def trace_id(traceparent: str) -> str:
    """Return the trace id in a W3C ``traceparent``, or empty."""
    parts: Sequence[str] = traceparent.split("-", 2)
    if len(parts) == 3:
        return parts[1]
    return ""


def present(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not empty strings."""
    return {key: value for key, value in fields.items() if value != ""}
