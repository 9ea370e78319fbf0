"""Metrics that a Triton Python model adds to the metrics page (TR-M8).

The server keeps the values, which all instances of the model share and which outlive this process.
"""

import enum
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Literal

from salver.backends.callbacks import Series
from salver.dialects.triton.python_backend.host_server import server, triton_errors
from salver.dialects.triton.python_backend.values import TritonModelException, text_of

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST: Final = 64  # limit of a series' labels and a histogram's bounds
_LONGEST: Final = 1024  # limit of a name, a label's value and a line of help, in characters


class MetricKind(enum.IntEnum):
    """Kinds of metrics."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


_KINDS: Final[Mapping[MetricKind, Literal["counter", "gauge", "histogram"]]] = {
    MetricKind.COUNTER: "counter",
    MetricKind.GAUGE: "gauge",
    MetricKind.HISTOGRAM: "histogram",
}


class Metric:
    """One series of a family; :meth:`MetricFamily.Metric` makes it."""

    def __init__(self, series: Series, kind: MetricKind) -> None:
        self._kind = kind
        with triton_errors():
            self._handle = server().meters.open(series)

    def increment(self, value: float) -> None:
        """Add a value, which must not be negative for a counter."""
        if self._kind is MetricKind.HISTOGRAM:
            raise self._unsupported("Increment")
        if self._kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException(
                "Failed to increment metric value: TRITONSERVER_METRIC_KIND_COUNTER can only be incremented "
                "monotonically by non-negative values."
            )
        self._change("add", value)

    def set(self, value: float) -> None:
        """Set the value of a gauge."""
        if self._kind is not MetricKind.GAUGE:
            raise self._unsupported("Set")
        self._change("set", value)

    def observe(self, value: float) -> None:
        """Add a value to a histogram."""
        if self._kind is not MetricKind.HISTOGRAM:
            raise self._unsupported("Observe")
        self._change("observe", value)

    def value(self) -> float:
        """Return the value of a counter or gauge over all instances, as on the metrics page."""
        if self._kind is MetricKind.HISTOGRAM:
            raise self._unsupported("Value")
        return server().meters.value(self._handle)

    def _change(self, how: Literal["add", "set", "observe"], value: float) -> None:
        number = float(value)
        if not math.isfinite(number):
            raise TritonModelException(f"{number} is no value of a metric")
        server().meters.change(self._handle, how, number)

    def _unsupported(self, what: str) -> TritonModelException:
        verb = {"Increment": "increment", "Set": "set", "Observe": "observe", "Value": "get"}[what]
        return TritonModelException(
            f"Failed to {verb} metric value: TRITONSERVER_METRIC_KIND_{self._kind.name} "
            f"does not support {what}"
        )


class MetricFamily:
    """Family of series with a common name on the metrics page.

    Args:
        name: Letters, digits, ``_`` and ``:``.
        description: One line of help.
        kind: ``MetricFamily.COUNTER``, ``GAUGE`` or ``HISTOGRAM``.
    """

    COUNTER: ClassVar = MetricKind.COUNTER
    GAUGE: ClassVar = MetricKind.GAUGE
    HISTOGRAM: ClassVar = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: int) -> None:
        name = text_of(name, "the name of a metric")
        if len(name) > _LONGEST or not _NAME.fullmatch(name):
            raise TritonModelException(
                f"Error when creating MetricFamily: {name[:_LONGEST]!r} is no name of a metric; letters, "
                "digits, _ and : make one"
            )
        self._name = name
        self._about = text_of(description, "the description of a metric")[:_LONGEST]
        self._kind = MetricKind(kind)

    def Metric(  # noqa: N802 - Triton's name
        self, labels: Mapping[str, str] | None = None, buckets: Iterable[float] | None = None
    ) -> Metric:
        """Return a series of this family.

        Args:
            buckets: Ascending upper bounds of a histogram.
        """
        texts = {
            text_of(label, "a label"): text_of(value, f"the value of label {label!r}")
            for label, value in dict(labels or {}).items()
        }
        for label, value in texts.items():
            if len(value) > _LONGEST:
                raise TritonModelException(
                    f"Error when creating Metric: the value of label {label!r} must be a text of at most "
                    f"{_LONGEST} characters"
                )
            if not _LABEL.fullmatch(label) or label.startswith("__") or label == "le":
                raise TritonModelException(f"Error when creating Metric: {label!r} is no name of a label")
        bounds = tuple(float(bound) for bound in buckets or ())
        if (self._kind is MetricKind.HISTOGRAM) != bool(bounds):
            found = "Missing required buckets"
            if bounds:
                found = "Unexpected buckets found"
            raise TritonModelException(f"Failed to create metric. {found}.")
        if any(b <= a for a, b in itertools.pairwise(bounds)):
            raise TritonModelException(
                "Error when creating Metric: Bucket Boundaries must be strictly sorted"
            )
        if len(texts) > _MOST or len(bounds) > _MOST:
            raise TritonModelException(
                f"Error when creating Metric: at most {_MOST} labels, and {_MOST} buckets"
            )
        finite = tuple(bound for bound in bounds if bound < math.inf)
        return Metric(Series(self._name, self._about, _KINDS[self._kind], texts, finite), self._kind)
