"""Log and trace settings in JSON and gRPC: Triton's extensions ``logging`` and ``trace`` (TR-R9, TR-R10).

The values of trace settings are strings. Unknown names are ignored, as Triton does. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from salver.encoding.json_text import json_object
from salver.words.errors import InvalidInput, Unsupported, tritons


class LogSettings(msgspec.Struct, frozen=True):
    """Log settings, under the names of the wire.

    Attributes:
        log_file: File; empty = standard error.
        log_verbose_level: Verbosity; 0 = off.
        log_format: ``default`` or ``ISO8601``.
    """

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"


class TraceSetting(msgspec.Struct, frozen=True):
    """Trace settings of a model, under the names of the wire.

    Attributes:
        trace_level: ``OFF`` alone, or ``TIMESTAMPS`` and ``TENSORS``.
        trace_rate: Trace one request in so many.
        trace_count: Number of further traces; -1 = no limit.
        log_frequency: Traces in each of several files; 0 = all in one.
        trace_file: File; empty = none.
    """

    trace_level: tuple[str, ...] = ("OFF",)
    trace_rate: int = 1000
    trace_count: int = -1
    log_frequency: int = 0
    trace_file: str = ""
    trace_mode: str = "triton"


#: New values by name.
LogChange = Mapping[str, bool | int | str]
#: New values by name; None = use the server's value for a model, the initial one for the server.
TraceChange = Mapping[str, tuple[str, ...] | int | None]

_MOST: Final = (1 << 32) - 1
#: Trace setting -> smallest and largest value.
_RANGES: Final = {"trace_rate": (0, _MOST), "trace_count": (-1, (1 << 31) - 1), "log_frequency": (0, _MOST)}
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
#: Log setting -> its type, with Triton's names of it in JSON and gRPC.
_KINDS: Final[dict[str, tuple[Any, str, str]]] = {
    "log_info": (bool, "boolean", "boolean"),
    "log_warning": (bool, "boolean", "boolean"),
    "log_error": (bool, "boolean", "boolean"),
    "log_verbose_level": (int, "unsigned-integer", "int32"),
    "log_format": (str, "string", "string"),
}
_FORMATS: Final = ("default", "ISO8601")


def parse_log(body: bytes) -> LogChange:
    """Return the change in a JSON body; null leaves a setting as it is.

    Raises:
        InvalidInput: A value is of the wrong type or unknown.
        Unsupported: The file is to change.
    """
    given = {name: value for name, value in json_object(body).items() if value is not None}
    return log_change(given, is_json=True)


def log_change(given: Mapping[str, Any], *, is_json: bool = False) -> LogChange:
    """Return the change of given settings.

    Args:
        is_json: Whether errors have Triton's texts of JSON rather than gRPC.

    >>> log_change({"log_info": False, "log_colour": "red"})
    {'log_info': False}
    """
    if "log_file" in given:
        raise Unsupported("log file location can not be updated through network protocol")
    change: dict[str, bool | int | str] = {}
    for name, (kind, json, grpc) in _KINDS.items():
        if name not in given:
            continue
        value = given[name]
        if type(value) is not kind or (kind is int and not 0 <= value <= _MOST):
            if is_json:
                raise _not_json(name, json)
            raise InvalidInput(f"expect {grpc} for '{name}'")
        if name == "log_format" and value not in _FORMATS:
            option = "--log_format" if is_json else "log_format"
            raise tritons(
                InvalidInput(f"log_format must be one of {', '.join(_FORMATS)}, not {value[:80]!r}"),
                f"invalid argument for {option}, got: {value[:80]}",
            )
        change[name] = value
    return change


def _not_json(name: str, kind: str) -> InvalidInput:
    """Return the error of a setting of the wrong type in JSON."""
    return tritons(
        InvalidInput(f"{name} must be of the type {kind.replace('-', ' ')}", field=name),
        f"attempt to access JSON non-{kind} as {kind} (at {name})",
    )


def parse_trace(body: bytes) -> TraceChange:
    """Return the change in a JSON body; null clears a setting.

    Raises:
        InvalidInput: A value is of the wrong type, no number, or out of range.
        Unsupported: The file is to change.
    """
    root = json_object(body)
    given: dict[str, Sequence[str]] = {}
    if "trace_file" in root:
        given["trace_file"] = ()
    for name in ("trace_level", *_RANGES):
        if name not in root:
            continue
        value = root[name]
        if value is None:
            given[name] = ()
        elif name == "trace_level":
            if type(value) is not list:
                raise _not_json(name, "array")
            if value:
                given[name] = value
        else:
            given[name] = (value,)
        if any(type(each) is not str for each in given.get(name, ())):
            raise _not_json(name, "string")
    return trace_change(given, got="got:")


def trace_change(given: Mapping[str, Sequence[str]], got: str = "got: ") -> TraceChange:
    """Return the change of given settings; one without values is cleared.

    Args:
        got: Text in front of a count that is too small.

    >>> trace_change({"trace_rate": ["5"], "trace_level": [], "trace_colour": ["red"]})
    {'trace_level': None, 'trace_rate': 5}
    """
    if "trace_file" in given:
        raise Unsupported("trace file location can not be updated through network protocol")
    change: dict[str, tuple[str, ...] | int | None] = {}
    if "trace_level" in given:
        levels = given["trace_level"]
        if "OFF" in levels and len(levels) > 1:
            raise InvalidInput("Expect only one trace level 'OFF' is specified")
        known = tuple(level for level in ("OFF", "TIMESTAMPS", "TENSORS") if level in levels)
        if known or not levels:
            change["trace_level"] = known or None
    for name in _RANGES:
        if name in given:
            values = given[name]
            if len(values) > 1:
                raise InvalidInput(f"expect only 1 value for '{name}'")
            change[name] = _number(name, values[0], got) if values else None
    return change


def _number(name: str, text: str, got: str) -> int:
    least, most = _RANGES[name]
    if not _WHOLE.fullmatch(text):
        raise InvalidInput(f"Unable to parse '{name}', got: {text[:80]}")
    value = int(text)
    if value < least == -1:
        raise InvalidInput(f"Unable to parse '{name}'. Expecting value >= {least}, {got}{text}")
    if not least <= value <= most:
        raise InvalidInput(
            f"Unable to parse '{name}', value is out of range [ {least}, {most} ], got: {text}"
        )
    return value


def trace_values(setting: TraceSetting) -> dict[str, list[str]]:
    """Return each setting as a list of texts, the form of gRPC."""
    shown = {name: [str(value)] for name, value in msgspec.structs.asdict(setting).items()}
    shown["trace_level"] = list(setting.trace_level)
    return shown


def trace_json(setting: TraceSetting) -> dict[str, str | list[str]]:
    """Return the JSON form: a list of levels, and texts for all others.

    >>> trace_json(TraceSetting(trace_rate=5))["trace_rate"]
    '5'
    """
    return {name: v if name == "trace_level" else v[0] for name, v in trace_values(setting).items()}
