"""How does a Triton Python model put numbers of its own on the metrics page (TR-M8)?

The numbers live in the server, one for all instances of the model, whatever becomes of this process.
"""

import enum
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Literal

from salver.backends.callbacks import Series
from salver.dialects.triton.python_backend.host_server import raising, server
from salver.dialects.triton.python_backend.values import TritonModelException, text_of

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST: Final = 64  # labels of a series, bounds of a histogram
_LONGEST: Final = 1024  # characters of a name, a label's value, a line of help


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
        with raising():
            self._handle = server().meters.open(series)

    def increment(self, value: float) -> None:
        """Add; what is added to a counter must not be negative."""
        if self._kind is MetricKind.HISTOGRAM:
            raise self._unsupported("Increment")
        if self._kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException(
                "Failed to increment metric value: TRITONSERVER_METRIC_KIND_COUNTER can only be incremented "
                "monotonically by non-negative values."
            )
        self._change("add", value)

    def set(self, value: float) -> None:
        """The value of a gauge from now on."""
        if self._kind is not MetricKind.GAUGE:
            raise self._unsupported("Set")
        self._change("set", value)

    def observe(self, value: float) -> None:
        """One more value of a histogram."""
        if self._kind is not MetricKind.HISTOGRAM:
            raise self._unsupported("Observe")
        self._change("observe", value)

    def value(self) -> float:
        """Of a counter or a gauge, as the metrics page shows it: what all instances came to."""
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
    """A name on the metrics page.

    Args:
        name: As Prometheus wants it: letters, digits, ``_`` and ``:``.
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
        """A series of this family.

        Args:
            buckets: Upper bounds, ascending, of a histogram's.
        """
        said = {
            text_of(label, "a label"): text_of(value, f"the value of label {label!r}")
            for label, value in dict(labels or {}).items()
        }
        for label, value in said.items():
            if len(value) > _LONGEST:
                raise TritonModelException(
                    f"Error when creating Metric: the value of label {label!r} must be a text of at most "
                    f"{_LONGEST} characters"
                )
            if not _LABEL.fullmatch(label) or label.startswith("__") or label == "le":
                raise TritonModelException(f"Error when creating Metric: {label!r} is no name of a label")
        bounds = tuple(float(bound) for bound in buckets or ())
        if (self._kind is MetricKind.HISTOGRAM) != bool(bounds):
            found = "Unexpected buckets found" if bounds else "Missing required buckets"
            raise TritonModelException(f"Failed to create metric. {found}.")
        if any(b <= a for a, b in itertools.pairwise(bounds)):
            raise TritonModelException(
                "Error when creating Metric: Bucket Boundaries must be strictly sorted"
            )
        if len(said) > _MOST or len(bounds) > _MOST:
            raise TritonModelException(
                f"Error when creating Metric: at most {_MOST} labels, and {_MOST} buckets"
            )
        finite = tuple(bound for bound in bounds if bound < math.inf)
        return Metric(Series(self._name, self._about, _KINDS[self._kind], said, finite), self._kind)
