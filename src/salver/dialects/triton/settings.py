"""Log and trace settings in JSON and in gRPC messages.

Triton's extensions ``logging`` and ``trace`` (TR-R9, TR-R10). The values of trace settings are strings; names
that do not exist are passed over, as Triton does. What a setting does stands in ``telemetry/``. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from salver.encoding.json_text import json_object
from salver.words.errors import InvalidInput, Unsupported, tritons


class LogSettings(msgspec.Struct, frozen=True):
    """What is logged, under the names of the wire.

    Attributes:
        log_file: Empty = standard error.
        log_verbose_level: 0 = nothing of it.
        log_format: ``default`` or ``ISO8601``.
    """

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"


class TraceSetting(msgspec.Struct, frozen=True):
    """What is traced of a model's requests, under the names of the wire.

    Attributes:
        trace_level: ``OFF`` alone, or ``TIMESTAMPS`` and ``TENSORS``.
        trace_rate: One request in so many.
        trace_count: So many more; -1 = without end.
        log_frequency: Traces in one file of several; 0 = all in one.
        trace_file: Empty = there is none.
    """

    trace_level: tuple[str, ...] = ("OFF",)
    trace_rate: int = 1000
    trace_count: int = -1
    log_frequency: int = 0
    trace_file: str = ""
    trace_mode: str = "triton"


#: New values by name.
LogChange = Mapping[str, bool | int | str]
#: New values by name; None = back to the value of the next level (a model's to the server's).
TraceChange = Mapping[str, tuple[str, ...] | int | None]

_MOST: Final = (1 << 32) - 1
#: Trace setting -> the least and the most.
_RANGES: Final = {"trace_rate": (0, _MOST), "trace_count": (-1, (1 << 31) - 1), "log_frequency": (0, _MOST)}
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
#: Log setting -> its type, and what JSON and gRPC call that.
_KINDS: Final[dict[str, tuple[Any, str, str]]] = {
    "log_info": (bool, "boolean", "boolean"),
    "log_warning": (bool, "boolean", "boolean"),
    "log_error": (bool, "boolean", "boolean"),
    "log_verbose_level": (int, "unsigned-integer", "int32"),
    "log_format": (str, "string", "string"),
}
_FORMATS: Final = ("default", "ISO8601")


def parse_log(body: bytes) -> LogChange:
    """The change in a JSON body; null leaves a setting as it is.

    Raises:
        InvalidInput: a value is of the wrong type or not known.
        Unsupported: another file.
    """
    given = {name: value for name, value in json_object(body).items() if value is not None}
    return log_change(given, is_json=True)


def log_change(given: Mapping[str, Any], *, is_json: bool = False) -> LogChange:
    """The change that is asked for.

    Args:
        is_json: What is wrong is said in the words of Triton's JSON, and not of its gRPC.

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
    """A setting is of another type than that one of JSON's."""
    return tritons(
        InvalidInput(f"{name} must be of the type {kind.replace('-', ' ')}", field=name),
        f"attempt to access JSON non-{kind} as {kind} (at {name})",
    )


def parse_trace(body: bytes) -> TraceChange:
    """The change in a JSON body; null clears a setting.

    Raises:
        InvalidInput: a value is of the wrong type, no number, or out of range.
        Unsupported: another file.
    """
    root = json_object(body)
    given: dict[str, Sequence[str]] = {"trace_file": ()} if "trace_file" in root else {}
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
    """The change that is asked for; a setting without values is cleared.

    Args:
        got: What stands in front of a count that is too small.

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
    """Each setting as a list of texts, as gRPC has it."""
    shown = {name: [str(value)] for name, value in msgspec.structs.asdict(setting).items()}
    shown["trace_level"] = list(setting.trace_level)
    return shown


def trace_json(setting: TraceSetting) -> dict[str, str | list[str]]:
    """The JSON form: a list of levels, and a text for anything else.

    >>> trace_json(TraceSetting(trace_rate=5))["trace_rate"]
    '5'
    """
    return {name: v if name == "trace_level" else v[0] for name, v in trace_values(setting).items()}
