"""Store of metrics in TorchServe before 0.8."""

from collections.abc import Mapping
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.lines import whose
from ts.metrics.metric import Metric

_TIMES, _SIZES = ["ms", "s"], ["MB", "kB", "GB", "B"]


class MetricsStore:
    """Metrics of some requests; ``ts.service.emit_metrics(it.store)`` sends them to the server."""

    def __init__(self, request_ids: Mapping[int, str] | str | None, model_name: str) -> None:
        self.store: list[Metric] = []
        self.request_ids = request_ids
        self.model_name = model_name
        self.cache: dict[str, Metric] = {}

    def add_counter(self, name: str, value: float, idx: Any = None, dimensions: Any = None) -> None:
        """Add to a counter."""
        self._add(name, value, "count", whose(self.request_ids, idx), dimensions)

    def add_time(
        self, name: str, value: float, idx: Any = None, unit: str = "ms", dimensions: Any = None
    ) -> None:
        """Add a duration."""
        if unit not in _TIMES:
            raise ValueError(f"the unit for a timed metric should be one of {_TIMES}")
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions)

    def add_size(
        self, name: str, value: float, idx: Any = None, unit: str = "MB", dimensions: Any = None
    ) -> None:
        """Add a size."""
        if unit not in _SIZES:
            raise ValueError(f"The unit for size based metric is one of {_SIZES}")
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions)

    def add_percent(self, name: str, value: float, idx: Any = None, dimensions: Any = None) -> None:
        """Add a percentage."""
        self._add(name, value, "percent", whose(self.request_ids, idx), dimensions)

    def add_error(self, name: str, value: Any, dimensions: Any = None) -> None:
        """Add an error."""
        self._add(name, value, "", None, dimensions)

    def add_metric(self, name: str, value: float, unit: str, idx: Any = None, dimensions: Any = None) -> None:
        """Add a value of any metric."""
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions)

    def _add(self, name: str, value: Any, unit: str, request: str | None, dimensions: Any) -> None:
        if dimensions is not None and not isinstance(dimensions, list):
            raise ValueError("Please provide a list of dimensions")
        own = [Dimension("Level", "Error")]
        if request is not None:
            own = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        every = [*(dimensions or ()), *own]
        key = "-".join([name, unit, str(request), *map(str, every)])
        if (metric := self.cache.get(key)) is not None:
            metric.update(value)
            return
        self.cache[key] = metric = Metric(name, value, unit, every, request)
        self.store.append(metric)
