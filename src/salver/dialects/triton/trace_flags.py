"""tritonserver's flags for traces: to a file, or by OpenTelemetry. Pure."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from salver.dialects.triton.trace_settings import TraceConfig
from salver.terminal import otel
from salver.terminal.server_flags import ParsedFlags
from salver.words.errors import InvalidInput, Unsupported

_OTEL: Final = "opentelemetry,"
_DEFAULT_URL: Final = "http://localhost:4318/v1/traces"
_Mode = Literal["triton", "opentelemetry"]
_TRACE_MODES: Final[dict[str, _Mode]] = {"triton": "triton", "opentelemetry": "opentelemetry"}
#: tritonserver's setting of the export batch -> Salver's, and the factor between their units.
_BATCH: Final[dict[str, tuple[str, float]]] = {
    "bsp_max_queue_size": ("queue", 1),
    "bsp_schedule_delay": ("delay_s", 1e-3),
    "bsp_max_export_batch_size": ("batch", 1),
}


def trace_of(given: ParsedFlags) -> TraceConfig:
    """Return the settings of the trace file: those of ``--trace-config`` and of the older flags.

    Raises:
        InvalidInput: A setting is unknown, or its value is wrong.
        Unsupported: Tensors are to be traced.
    """
    settings = [setting.removeprefix("triton,") for setting in given.all("trace-config")]
    for name in ("file", "level", "rate", "count", "log-frequency"):
        settings += [f"{name}={value}" for value in given.all(f"trace-{name}")]
    found: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "mode":
            if value.lower() not in _TRACE_MODES:
                raise InvalidInput(
                    f"invalid value for trace mode option: {value}. "
                    'Available options are "triton" and "opentelemetry"'
                )
            found["mode"] = _TRACE_MODES[value.lower()]
        elif name == "file":
            found["file"] = value
        elif name == "level":
            found["level"] = _level(value)
        elif name in ("rate", "count", "log-frequency"):
            if not (value.isascii() and value.removeprefix("-").isdigit()):
                raise InvalidInput(f"--trace-config {setting!r}: the value must be a whole number")
            found[name.replace("-", "_")] = int(value)
        elif not name.startswith(_OTEL):
            raise InvalidInput(
                f"--trace-config: there is no setting {name!r}",
                fix="One of mode, level, rate, count, triton,file, triton,log-frequency, opentelemetry,url.",
            )
    return TraceConfig(**found)


def tracing_of(given: ParsedFlags, trace: TraceConfig, environment: Mapping[str, str]) -> otel.Tracing:
    """Return the export of spans by ``opentelemetry,url=URL`` and the like; empty in Triton's own mode.

    Raises:
        InvalidInput: A setting is unknown, or its value is wrong.
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
            settings[field] = number if unit == 1 else number * unit
        else:
            raise InvalidInput(
                f"--trace-config: there is no setting 'opentelemetry,{name}'",
                fix=f"One of url, resource, {', '.join(_BATCH)}.",
            )
    return otel.completed(settings, environment, resource)


def _level(value: str) -> Literal["off", "timestamps"]:
    if value.upper() == "TENSORS":
        raise Unsupported("traces hold no tensors", fix="Use level=TIMESTAMPS.")
    if value.upper() not in ("OFF", "TIMESTAMPS", "MIN", "MAX"):  # the last two are older names
        raise InvalidInput(f"there is no trace level {value!r}", fix="OFF or TIMESTAMPS.")
    return "off" if value.upper() == "OFF" else "timestamps"
