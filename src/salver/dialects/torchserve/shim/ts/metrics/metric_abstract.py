"""Base class of metrics."""

import abc
from collections.abc import Sequence
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units

MetricUnit = Units()


class MetricAbstract(abc.ABC):
    """Name, unit, kind and dimension names of a metric.

    Args:
        unit: Abbreviation (``ms``, ``percent``, ``count``, ``MB``, …) or any other word.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = MetricUnit.units.get(unit, unit)
        self.dimension_names = dimension_names or []
        self.metric_type = metric_type

    @abc.abstractmethod
    def add_or_update(self, value: float, dimension_values: Sequence[Any], request_id: Any = "") -> None:
        """Count, set or observe a value."""
