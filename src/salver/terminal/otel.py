"""Settings of the export of spans, from OpenTelemetry's environment variables. Pure.

The variables are those of the specification (SDK environment variables, OTLP exporter). Protocols other than
OTLP over HTTP are reported in the log.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from salver.words.errors import InvalidInput

_PROTOCOL: Final = "http/protobuf"
_NONE: Final = ("none", "")

#: The table ``tracing`` of the configuration.
Tracing = dict[str, Any]


def from_environment(environment: Mapping[str, str]) -> Tracing:
    """Return the settings; empty where the variables name no collector, or switch it off.

    Raises:
        InvalidInput: a variable has a value that it cannot have.
    """
    is_off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp") in _NONE
    )
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not url and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")):
        url = base.rstrip("/") + "/v1/traces"
    if is_off or not url:
        return {}
    return completed({"url": url, "rate": _rate(environment)}, environment)


def notices(environment: Mapping[str, str]) -> list[str]:
    """Return a line for the log about each setting that has no effect."""
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOL
    )
    if protocol == _PROTOCOL or not from_environment(environment):
        return []
    return [f"spans go by {_PROTOCOL}, not by {protocol}: name the collector's port for that, 4318 as a rule"]


def completed(
    given: Tracing, environment: Mapping[str, str], resource: Mapping[str, str] | None = None
) -> Tracing:
    """Return the settings with those that the environment adds; ``given`` overrides it.

    Args:
        resource: Attributes of the resource, which override the environment's.
    """
    said: dict[str, Any] = {}
    for variable, field, unit in (
        ("OTEL_BSP_MAX_QUEUE_SIZE", "queue", 1),
        ("OTEL_BSP_SCHEDULE_DELAY", "delay_s", 1e-3),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch", 1),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "timeout_s", 1e-3),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "timeout_s", 1e-3),
    ):
        if value := environment.get(variable):
            number = whole_number(variable, value)
            said[field] = number * unit if unit != 1 else number
    headers = _pairs("OTEL_EXPORTER_OTLP_TRACES_HEADERS", environment) or _pairs(
        "OTEL_EXPORTER_OTLP_HEADERS", environment
    )
    about = {"service.name": "salver", **_pairs("OTEL_RESOURCE_ATTRIBUTES", environment), **(resource or {})}
    if name := environment.get("OTEL_SERVICE_NAME"):
        about["service.name"] = name
    return {"resource": tuple(about.items()), "headers": tuple(headers.items()), **said, **given}


def _rate(environment: Mapping[str, str]) -> int:
    """Return the rate of ``OTEL_TRACES_SAMPLER``: one in this many requests without a trace is traced."""
    sampler = environment.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").removeprefix("parentbased_")
    if sampler in ("always_on", "always_off"):
        return int(sampler == "always_on")
    if sampler != "traceidratio":
        raise InvalidInput(
            f"OTEL_TRACES_SAMPLER {sampler!r} is not known",
            fix="One of (parentbased_)always_on, always_off and traceidratio.",
        )
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise InvalidInput(f"OTEL_TRACES_SAMPLER_ARG {text!r} is not a number from 0 to 1")
    return round(1 / ratio) if ratio else 0


def _pairs(variable: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the pairs of ``key=value,key=value``, percent-encoded."""
    found = {}
    for part in filter(None, environment.get(variable, "").split(",")):
        key, equals, value = part.partition("=")
        if not key.strip() or not equals:
            raise InvalidInput(f"{variable}: {part!r} is not KEY=VALUE")
        found[unquote(key.strip())] = unquote(value.strip())
    return found


def whole_number(name: str, text: str) -> int:
    """Return a number of at least 0. Raises InvalidInput."""
    if not (text.isascii() and text.isdecimal()):
        raise InvalidInput(f"{name} {text!r} is not a whole number")
    return int(text)
