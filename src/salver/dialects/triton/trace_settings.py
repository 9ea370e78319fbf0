"""Choice of the requests that are traced (TR-R9, TR-F8).

A model's settings prevail over the server's, and those over the settings at the start. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from salver.configuration import ServeConfig
from salver.dialects.triton.settings import TraceChange, TraceSetting
from salver.words.errors import InvalidInput, Unsupported

_OFF: Final = ("OFF",)


class TraceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trace settings at the start; all but the file may be changed later.

    Attributes:
        file: File for traces; empty = nothing can be traced.
        rate: Trace one request in so many.
        count: Number of traces; -1 = no limit.
        log_frequency: Traces in each of the files ``FILE.0``, ``FILE.1`` and so on; 0 = all in ``FILE``.
        mode: With ``opentelemetry``, spans are exported instead, and callers can change nothing.
    """

    file: str = ""
    level: Literal["off", "timestamps"] = "off"
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0
    mode: Literal["triton", "opentelemetry"] = "triton"


def trace_config(config: ServeConfig) -> TraceConfig:
    """Return the table of a server's configuration. Raises InvalidInput."""
    return config.table("trace", TraceConfig)


class Scope:
    """Sampling of the models that share settings.

    Attributes:
        remaining: Traces still to be taken; -1 = no limit.
    """

    __slots__ = ("_seen", "remaining", "setting")

    def __init__(self, setting: TraceSetting) -> None:
        self.setting = setting
        self.remaining = setting.trace_count
        self._seen = 0

    def takes(self) -> bool:
        """Return whether to trace the next request."""
        if self.setting.trace_level == _OFF or not self.remaining:
            return False
        self._seen += 1
        if self._seen % self.setting.trace_rate:
            return False
        if self.remaining > 0:
            self.remaining -= 1
        return True


class TraceSettings:
    """Trace settings in force.

    Attributes:
        is_on: Whether any request may be traced.

    Raises:
        InvalidInput: Tracing is on without a file, or a number is out of range.
    """

    def __init__(self, config: TraceConfig) -> None:
        level = (config.level.upper(),)
        self._first = TraceSetting(
            level, config.rate, config.count, config.log_frequency, config.file, config.mode
        )
        self._is_elsewhere = config.mode == "opentelemetry"
        if config.rate < 1 or config.count < -1 or config.log_frequency < 0:
            raise InvalidInput(
                f"a trace rate of {config.rate}, count of {config.count} and log frequency of "
                f"{config.log_frequency} are out of range",
                fix="The smallest values are 1, -1 and 0.",
            )
        if level != _OFF and not config.file and not self._is_elsewhere:
            raise InvalidInput("requests cannot be traced without a file", fix="Name one with --trace-file.")
        self._own: dict[str, Mapping[str, Any]] = {"": {}}  # by model; "" = the server's
        self._scopes = {"": Scope(self._first)}
        self.is_on = level != _OFF and not self._is_elsewhere

    def __repr__(self) -> str:
        return f"<TraceSettings {'on' if self.is_on else 'off'}, {len(self._own) - 1} models with their own>"

    def of(self, model: str = "") -> TraceSetting:
        """Return the settings of a model, or without a name those of the server."""
        scope = self.scope(model)
        return msgspec.structs.replace(scope.setting, trace_count=scope.remaining)

    def scope(self, model: str) -> Scope:
        """Return the sampling of a model."""
        return self._scopes.get(model) or self._scopes[""]

    def update(self, model: str, change: TraceChange) -> None:
        """Change the settings of a model, or without a name those of the server; all of it or nothing.

        Raises:
            InvalidInput: The settings do not fit together.
            Unsupported: The level is not supported, or nothing may be changed.
        """
        if self._is_elsewhere:
            raise Unsupported(
                "trace settings can not be updated in OpenTelemetry mode", fix="Start with --trace-config."
            )
        own = {**self._own, model: self._changed(model, change)}
        if model and not own[model]:
            del own[model]
        if model:
            affected = {model} & own.keys()
            server = self.of()
        else:  # the server's settings are the defaults of all models
            affected = set(own)
            server = msgspec.structs.replace(self._first, **own[""])
        scopes = {name: scope for name, scope in self._scopes.items() if name in own}
        for name in affected:
            values = own[name] if name == model else self._changed(name, {})
            setting = msgspec.structs.replace(server, **values)
            _check(setting)
            scopes[name] = Scope(setting)
        self._own, self._scopes = own, scopes
        self.is_on = any(scope.setting.trace_level != _OFF for scope in scopes.values())

    def _changed(self, model: str, change: TraceChange) -> dict[str, Any]:
        """Return a model's own settings after a change, with the rest of a count."""
        values = dict(self._own.get(model, {}))
        if "trace_count" in values:
            values["trace_count"] = self._scopes[model].remaining
        values.update(change)
        return {name: value for name, value in values.items() if value is not None}


def _check(setting: TraceSetting) -> None:
    """Check Triton's conditions; the texts are Triton's."""
    if setting.trace_level == _OFF:
        return
    if "TENSORS" in setting.trace_level:
        raise Unsupported("trace level 'TENSORS' is not supported", fix="Use TIMESTAMPS.")
    if not setting.trace_rate:
        raise InvalidInput("Attempting to set invalid trace setting :sample rate must be non-zero")
    if not setting.trace_file:
        raise InvalidInput("Attempting to set invalid trace setting :trace file name is not given")
