"""tritonserver's flags of tracing: to a file, and by OpenTelemetry. Pure."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from salver.dialects.triton.trace_settings import TraceConfig
from salver.terminal import otel
from salver.terminal.server_flags import ParsedFlags
from salver.words.errors import InvalidInput, Unsupported

_OTEL: Final = "opentelemetry,"
_DEFAULT_URL: Final = "http://localhost:4318/v1/traces"
_TRACE_MODES: Final[dict[str, Literal["triton", "opentelemetry"]]] = {
    "triton": "triton",
    "opentelemetry": "opentelemetry",
}
#: tritonserver's setting of the batch -> ours, and how many of its units are one of ours.
_BATCH: Final[dict[str, tuple[str, float]]] = {
    "bsp_max_queue_size": ("queue", 1),
    "bsp_schedule_delay": ("delay_s", 1e-3),
    "bsp_max_export_batch_size": ("batch", 1),
}


def trace_of(given: ParsedFlags) -> TraceConfig:
    """Return the settings of the trace file, of ``--trace-config`` and of the older flags.

    Raises:
        InvalidInput: there is no such setting, or no such value.
        Unsupported: tensors are to be traced.
    """
    settings = [setting.removeprefix("triton,") for setting in given.all("trace-config")]
    for name in ("file", "level", "rate", "count", "log-frequency"):
        settings += [f"{name}={value}" for value in given.all(f"trace-{name}")]
    found = TraceConfig()
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "mode":
            if value.lower() not in _TRACE_MODES:
                raise InvalidInput(
                    f"invalid value for trace mode option: {value}. "
                    'Available options are "triton" and "opentelemetry"'
                )
            found = msgspec.structs.replace(found, mode=_TRACE_MODES[value.lower()])
        elif name == "file":
            found = msgspec.structs.replace(found, file=value)
        elif name == "level":
            found = msgspec.structs.replace(found, level=_level(value))
        elif name in ("rate", "count", "log-frequency"):
            if not (value.isascii() and value.removeprefix("-").isdigit()):
                raise InvalidInput(f"--trace-config {setting!r}: the value must be a whole number")
            found = msgspec.structs.replace(found, **{name.replace("-", "_"): int(value)})
        elif not name.startswith(_OTEL):
            raise InvalidInput(
                f"--trace-config: there is no setting {name!r}",
                fix="One of mode, level, rate, count, triton,file, triton,log-frequency, opentelemetry,url.",
            )
    return found


def tracing_of(given: ParsedFlags, trace: TraceConfig, environment: Mapping[str, str]) -> otel.Tracing:
    """Return where spans go, by ``opentelemetry,url=URL`` and its like; empty in Triton's own mode.

    Raises:
        InvalidInput: there is no such setting, or no such value.
    """
    if trace.mode != "opentelemetry" or trace.level == "off":
        return {}
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _DEFAULT_URL)
    settings: otel.Tracing = {"url": endpoint, "rate": trace.rate, "count": trace.count}
    resource: dict[str, str] = {"service.name": "triton-inference-server"}
    for setting in given.all("trace-config"):
        if not setting.startswith(_OTEL):
            continue
        name, _, value = setting.removeprefix(_OTEL).partition("=")
        if name == "url":
            settings["url"] = value
        elif name == "resource":
            key, equals, text = value.partition("=")
            if not key or not equals:
                raise InvalidInput(f"opentelemetry,resource={value!r}: write resource=KEY=VALUE")
            resource[key] = text
        elif name in _BATCH:
            field, unit = _BATCH[name]
            number = otel.whole_number(f"opentelemetry,{name}", value)
            settings[field] = number * unit if unit != 1 else number
        else:
            raise InvalidInput(
                f"--trace-config: there is no setting 'opentelemetry,{name}'",
                fix=f"One of url, resource, {', '.join(_BATCH)}.",
            )
    return otel.completed(settings, environment, resource)


def _level(value: str) -> Literal["off", "timestamps"]:
    if value.upper() == "TENSORS":
        raise Unsupported("traces hold no tensors", fix="Say level=TIMESTAMPS.")
    if value.upper() not in ("OFF", "TIMESTAMPS", "MIN", "MAX"):  # the last two are older names
        raise InvalidInput(f"there is no trace level {value!r}", fix="OFF or TIMESTAMPS.")
    return "off" if value.upper() == "OFF" else "timestamps"
