"""A metric of a handler whose changes are sent to the server."""

import logging
from collections.abc import Sequence
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.lines import LINES, line
from ts.metrics.metric_abstract import MetricAbstract
from ts.metrics.metric_type_enum import MetricTypes

_log = logging.getLogger(__name__)


class CachingMetric(MetricAbstract):
    """Metric whose changes are lines that the server takes after the run; invalid ones are logged."""

    def add_or_update(self, value: float, dimension_values: Sequence[Any] = (), request_id: Any = "") -> None:
        """Count, set or observe a value, with the values of the dimensions in order."""
        names, dimensions = self.dimension_names, ""
        try:
            if dimension_values is None or len(dimension_values) != len(names):
                raise ValueError(
                    f"Dimension values: {dimension_values} should correspond to Dimension names: {names}"
                )
            pairs = zip(names, dimension_values, strict=True)
            dimensions = ",".join([f"{name}:{said}" for name, said in pairs])
            if self.metric_type is MetricTypes.COUNTER and value < 0:
                raise ValueError("Counter metric update value cannot be negative")
        except ValueError as error:
            _log.error(
                "[METRICS]Failed to update metric with name:%s and dimensions: %s with value: %s: %s",
                self.metric_name, dimensions, value, error,
            )  # fmt: skip
            return
        self.emit_metrics(request_id, value, dimensions)

    def emit_metrics(self, request_id: Any, value: float, dimension_string: str) -> None:
        """Write the line of a change."""
        metric = f"{self.metric_name}.{self.unit}"
        LINES.add(line(metric, value, dimension_string, self.metric_type.name, request_id))

    def update(self, value: float, request_id: Any = "", dimensions: Sequence[Dimension] = ()) -> None:
        """Add a value as before TorchServe 0.8: the dimensions replace those of the metric."""
        _log.warning("Overriding existing dimensions")
        self.dimension_names = [each.name for each in dimensions]
        self.add_or_update(value, [each.value for each in dimensions], request_id)
