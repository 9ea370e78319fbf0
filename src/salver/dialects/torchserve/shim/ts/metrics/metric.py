"""Metrics of TorchServe before 0.8."""

import time
from typing import Any

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.lines import HOST, line
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units

MetricUnit = Units()


class Metric:
    """A counter with dimensions and a value; ``str()`` returns its line."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: list[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.metric_type = MetricTypes.COUNTER
        self.dimensions = dimensions
        self.dimension_names = [each.name for each in dimensions]
        self.dimension_values = [each.value for each in dimensions]
        self._metric = CachingMetric(name, unit, self.dimension_names, self.metric_type)
        self.name = self._metric.metric_name
        self.unit = self._metric.unit
        self.metric_method = metric_method
        self.value = value
        self.request_id = request_id

    def update(self, value: float) -> None:
        """Count a value."""
        self._metric.add_or_update(value, self.dimension_values, request_id=self.request_id)

    def reset(self) -> None:
        """Count 0."""
        self.update(0)

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        return line(f"{self.name}.{self.unit}", self.value, dimensions, "", self.request_id)

    def to_dict(self) -> dict[str, Any]:
        """Return the metric as JSON."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": HOST,
            "RequestId": self.request_id,
        }
