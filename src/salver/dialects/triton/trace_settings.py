"""Choice of the requests that are traced.

One in so many, so many in all, of every model or as a model's own settings say (TR-R9, TR-F8). What a model's
settings leave open is as the server's, and what those leave open is as the server was started. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from salver.dialects.triton.settings import TraceChange, TraceSetting
from salver.words.errors import InvalidInput, Unsupported

_OFF: Final = ("OFF",)


class TraceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is traced from the start; all but the file may be changed later.

    Attributes:
        file: Takes the traces; empty = nothing can be traced.
        rate: One request in so many.
        count: So many traces, then no more; -1 = without end.
        log_frequency: Traces in one of several files, ``FILE.0``, ``FILE.1`` and so on; 0 = all in ``FILE``.
        mode: With ``opentelemetry`` nothing goes to a file: spans do otherwise, and callers change nothing.
    """

    file: str = ""
    level: Literal["off", "timestamps"] = "off"
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0
    mode: Literal["triton", "opentelemetry"] = "triton"


class Scope:
    """The models that share settings, and how far sampling has come with them.

    Attributes:
        remaining: Traces still to be taken; -1 = without end.
    """

    __slots__ = ("_seen", "remaining", "setting")

    def __init__(self, setting: TraceSetting) -> None:
        self.setting = setting
        self.remaining = setting.trace_count
        self._seen = 0

    def takes(self) -> bool:
        """Return whether the request that comes now is traced."""
        if self.setting.trace_level == _OFF or not self.remaining:
            return False
        self._seen += 1
        if self._seen % self.setting.trace_rate:
            return False
        if self.remaining > 0:
            self.remaining -= 1
        return True


class TraceSettings:
    """The settings in force.

    Attributes:
        is_on: Some request may be traced.

    Raises:
        InvalidInput: tracing is on, and there is no file; or a number is out of range.
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
                f"{config.log_frequency} make no sense",
                fix="The least are 1, -1 and 0.",
            )
        if level != _OFF and not config.file and not self._is_elsewhere:
            raise InvalidInput("requests cannot be traced without a file", fix="Name one with --trace-file.")
        self._own: dict[str, Mapping[str, Any]] = {"": {}}  # by model; "" = the server's
        self._scopes = {"": Scope(self._first)}
        self.is_on = level != _OFF and not self._is_elsewhere

    def __repr__(self) -> str:
        return f"<TraceSettings {'on' if self.is_on else 'off'}, {len(self._own) - 1} models with their own>"

    def of(self, model: str = "") -> TraceSetting:
        """What is in force for a model, or, without a name, for those without settings of their own."""
        scope = self.scope(model)
        return msgspec.structs.replace(scope.setting, trace_count=scope.remaining)

    def scope(self, model: str) -> Scope:
        """Where a model belongs."""
        return self._scopes.get(model) or self._scopes[""]

    def update(self, model: str, change: TraceChange) -> None:
        """Change a model's settings, or, without a name, the server's; all of it or nothing.

        Raises:
            InvalidInput: nothing can be traced so.
            Unsupported: the level is not supported, or nothing may be changed.
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
        else:  # models that leave something open get it from here
            affected = set(own)
            server = msgspec.structs.replace(self._first, **own[""])
        scopes = {name: scope for name, scope in self._scopes.items() if name in own}
        for name in affected:
            said = self._changed(name, {}) if name != model else own[name]
            setting = msgspec.structs.replace(server, **said)
            _check(setting)
            scopes[name] = Scope(setting)
        self._own, self._scopes = own, scopes
        self.is_on = any(scope.setting.trace_level != _OFF for scope in scopes.values())

    def _changed(self, model: str, change: TraceChange) -> dict[str, Any]:
        """What is said of a model after a change; of a count, what remains of it."""
        said = dict(self._own.get(model, {}))
        if "trace_count" in said:
            said["trace_count"] = self._scopes[model].remaining
        said.update(change)
        return {name: value for name, value in said.items() if value is not None}


def _check(setting: TraceSetting) -> None:
    """Triton's conditions, in its words."""
    if setting.trace_level == _OFF:
        return
    if "TENSORS" in setting.trace_level:
        raise Unsupported("trace level 'TENSORS' is not supported", fix="Use TIMESTAMPS.")
    lacking = "" if setting.trace_file else "trace file name is not given"
    if not setting.trace_rate:
        lacking = "sample rate must be non-zero"
    if lacking:
        raise InvalidInput(f"Attempting to set invalid trace setting :{lacking}")
