"""Metrics that a ``metrics.yaml`` of TorchServe declares (TS-C7).

Those of the server and those of models, each with kind, unit and label names; without a file, those that
TorchServe ships. Nothing is counted here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.dialects.torchserve.metric_lines import Kind
from salver.encoding.plain_yaml import read_yaml
from salver.words.errors import InvalidInput

_MAX_BYTES: Final = 1 << 20
_MOST: Final = 1000
_KINDS: Final[tuple[Kind, ...]] = ("counter", "gauge", "histogram")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,199}")
HOSTNAME: Final = "Hostname"


class Spec(msgspec.Struct, frozen=True):
    """A metric.

    Attributes:
        dimensions: Names of its labels.
    """

    name: str
    kind: Kind
    unit: str
    dimensions: tuple[str, ...]


class MetricsYaml(msgspec.Struct, frozen=True):
    """Metrics of the server and of models; the last label of the latter is ``Hostname``."""

    server: tuple[Spec, ...] = ()
    models: tuple[Spec, ...] = ()


def _usual() -> MetricsYaml:
    host, model = ("Level", HOSTNAME), ("model_name", "model_version", "hostname")
    device = ("Level", "DeviceId", HOSTNAME)
    gauges = (
        ("CPUUtilization", "Percent", host),
        ("MemoryUsed", "Megabytes", host),
        ("MemoryAvailable", "Megabytes", host),
        ("MemoryUtilization", "Percent", host),
        ("DiskUsage", "Gigabytes", host),
        ("DiskUtilization", "Percent", host),
        ("DiskAvailable", "Gigabytes", host),
        ("GPUMemoryUtilization", "Percent", device),
        ("GPUMemoryUsed", "Megabytes", device),
        ("GPUUtilization", "Percent", device),
    )
    server = [Spec(f"Requests{each}XX", "counter", "Count", host) for each in "245"]
    server += [
        Spec("ts_inference_requests_total", "counter", "Count", model),
        Spec("ts_inference_latency_microseconds", "counter", "Microseconds", model),
        Spec("ts_queue_latency_microseconds", "counter", "Microseconds", model),
        Spec("QueueTime", "gauge", "Milliseconds", host),
        Spec("WorkerThreadTime", "gauge", "Milliseconds", host),
        Spec("WorkerLoadTime", "gauge", "Milliseconds", ("WorkerName", *host)),
    ]
    server += [Spec(name, "gauge", unit, labels) for name, unit, labels in gauges]
    models = [Spec(name, "gauge", "ms", ("ModelName", *host)) for name in ("HandlerTime", "PredictionTime")]
    return MetricsYaml(tuple(server), tuple(models))


#: Metrics that TorchServe ships.
USUAL: Final = _usual()


def read(path: str) -> MetricsYaml:
    """Read a file.

    Raises:
        InvalidInput: it cannot be read, or is malformed; the message names file and place.
        MissingExtra: PyYAML is not installed.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"metrics_config: {path} cannot be read: {error.strerror}") from error
    sections = read_yaml(text, str(path), "torchserve", _MAX_BYTES)
    if not isinstance(sections, dict):
        raise _wrong(path, "has no keys")
    found = MetricsYaml(
        _specs(sections.get("ts_metrics"), f"{path}: ts_metrics", ()),
        _specs(sections.get("model_metrics"), f"{path}: model_metrics", (HOSTNAME,)),
    )
    both = {spec.name for spec in found.server} & {spec.name for spec in found.models}
    if both:
        raise _wrong(path, f"has the same names for metrics of server and models: {', '.join(sorted(both))}")
    return found


def _specs(section: Any, where: str, more: tuple[str, ...]) -> tuple[Spec, ...]:
    if section is None:
        return ()
    if not isinstance(section, dict) or not set(section) <= set(_KINDS):
        raise _wrong(where, f"has other keys than {', '.join(_KINDS)}")
    found: dict[str, Spec] = {}
    for kind in _KINDS:
        listed = section.get(kind) or ()
        if not isinstance(listed, list | tuple):
            raise _wrong(f"{where}.{kind}", "is no list")
        for index, each in enumerate(listed):
            spec = _spec(each, kind, f"{where}.{kind}[{index}]", more)
            found[spec.name] = spec
    if len(found) > _MOST:
        raise _wrong(where, f"has more than {_MOST} metrics")
    return tuple(found.values())


def _spec(metric: Any, kind: Kind, where: str, more: tuple[str, ...]) -> Spec:
    if not isinstance(metric, Mapping):
        raise _wrong(where, "is no metric")
    name, labels = metric.get("name"), metric.get("dimensions") or ()
    unit = metric.get("unit")
    if unit is None:
        unit = ""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(where, f"has no valid name: {name!r:.100}")
    if not isinstance(labels, list | tuple) or not all(
        isinstance(label, str) and _LABEL.fullmatch(label) for label in labels
    ):
        raise _wrong(where, f"has no valid dimensions: {labels!r:.100}")
    if len({*labels, *more}) < len(labels) + len(more):
        raise _wrong(where, f"has a dimension twice: {labels!r:.100}")
    return Spec(name, kind, str(unit)[:100], (*labels, *more))


def _wrong(where: str, why: str) -> InvalidInput:
    return InvalidInput(f"{where} {why}", fix="See docs/how-to/from-torchserve.md for its form.")
