"""Where do spans go, by OpenTelemetry's own variables and by tritonserver's ``--trace-config``?

Pure. The variables are those of the specification (SDK environment variables, OTLP exporter); what asks for
something else than OTLP over HTTP is told in the log.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.features.telemetry.otlp import SpanConfig

_DEFAULT_URL: Final = "http://localhost:4318/v1/traces"
_PROTOCOL: Final = "http/protobuf"
_NONE: Final = ("none", "")
#: tritonserver's setting of the batch -> ours, and how many of its units are one of ours.
_BATCH: Final[dict[str, tuple[str, float]]] = {
    "bsp_max_queue_size": ("queue", 1),
    "bsp_schedule_delay": ("delay_s", 1e-3),
    "bsp_max_export_batch_size": ("batch", 1),
}


def from_environment(environment: Mapping[str, str]) -> "SpanConfig | None":
    """What the variables ask for; None where they name no collector, or switch it off.

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
        return None
    return _made({"url": url, "rate": _rate(environment)}, environment)


def notices(environment: Mapping[str, str]) -> list[str]:
    """What the variables ask for and does not happen, for the log."""
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOL
    )
    if protocol == _PROTOCOL or from_environment(environment) is None:
        return []
    return [f"spans go by {_PROTOCOL}, not by {protocol}: name the collector's port for that, 4318 as a rule"]


def of_triton(
    settings: Sequence[tuple[str, str]], rate: int, count: int, environment: Mapping[str, str]
) -> "SpanConfig":
    """Of the settings behind ``opentelemetry,``, as pairs.

    Args:
        rate: One request in so many; 0 = none but those with a trace of their own.

    Raises:
        InvalidInput: there is no such setting, or no such value.
    """
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _DEFAULT_URL)
    given: dict[str, Any] = {"url": endpoint, "rate": rate, "count": count}
    resource: dict[str, str] = {"service.name": "triton-inference-server"}
    for name, value in settings:
        if name == "url":
            given["url"] = value
        elif name == "resource":
            key, equals, text = value.partition("=")
            if not key or not equals:
                raise InvalidInput(f"opentelemetry,resource={value!r}: write resource=KEY=VALUE")
            resource[key] = text
        elif name in _BATCH:
            field, unit = _BATCH[name]
            number = _number(f"opentelemetry,{name}", value)
            given[field] = number * unit if unit != 1 else number
        else:
            raise InvalidInput(
                f"--trace-config: there is no setting 'opentelemetry,{name}'",
                fix=f"One of url, resource, {', '.join(_BATCH)}.",
            )
    return _made(given, environment, resource)


def _made(
    given: dict[str, Any], environment: Mapping[str, str], resource: Mapping[str, str] | None = None
) -> "SpanConfig":
    """With what the environment says besides; ``given`` goes before it."""
    from salver.features.telemetry.otlp import SpanConfig

    said: dict[str, Any] = {}
    for variable, field, unit in (
        ("OTEL_BSP_MAX_QUEUE_SIZE", "queue", 1),
        ("OTEL_BSP_SCHEDULE_DELAY", "delay_s", 1e-3),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch", 1),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "timeout_s", 1e-3),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "timeout_s", 1e-3),
    ):
        if value := environment.get(variable):
            number = _number(variable, value)
            said[field] = number * unit if unit != 1 else number
    headers = _pairs("OTEL_EXPORTER_OTLP_TRACES_HEADERS", environment) or _pairs(
        "OTEL_EXPORTER_OTLP_HEADERS", environment
    )
    about = {"service.name": "salver", **_pairs("OTEL_RESOURCE_ATTRIBUTES", environment), **(resource or {})}
    if name := environment.get("OTEL_SERVICE_NAME"):
        about["service.name"] = name
    return SpanConfig(
        **{"resource": tuple(about.items()), "headers": tuple(headers.items()), **said, **given}
    )


def _rate(environment: Mapping[str, str]) -> int:
    """Of ``OTEL_TRACES_SAMPLER``: one request in so many that come without a trace."""
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
        raise InvalidInput(f"OTEL_TRACES_SAMPLER_ARG {text!r} is no ratio", fix="A number from 0 to 1.")
    return round(1 / ratio) if ratio else 0


def _pairs(variable: str, environment: Mapping[str, str]) -> dict[str, str]:
    """``key=value,key=value``, each percent-encoded."""
    found = {}
    for part in filter(None, environment.get(variable, "").split(",")):
        key, equals, value = part.partition("=")
        if not key.strip() or not equals:
            raise InvalidInput(f"{variable}: {part!r} is no KEY=VALUE")
        found[unquote(key.strip())] = unquote(value.strip())
    return found


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise InvalidInput(f"{name} {text!r} is no whole number")
    return int(text)
