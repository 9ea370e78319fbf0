"""Base class of a handler's metrics."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from ts.metrics import metric_cache_errors as errors
from ts.metrics.dimension import Dimension
from ts.metrics.lines import whose
from ts.metrics.metric_abstract import MetricAbstract
from ts.metrics.metric_type_enum import MetricTypes

_COUNTER, _GAUGE = MetricTypes.COUNTER, MetricTypes.GAUGE
_TIMES, _SIZES = ["ms", "s"], ["MB", "kB", "GB", "B"]


class MetricCacheAbstract(abc.ABC):
    """Metrics by kind and name, declared or created at their first use.

    ``idx`` is the index of a request in the run; None = all requests. Dimensions are followed by the model's
    name and ``Level:Model``.

    Attributes:
        request_ids: Ids of the run's requests by index, or one text.
        model_name: Name of the handler's model.
    """

    def __init__(self, config_file_path: str | None) -> None:
        self.cache: dict[MetricTypes, dict[str, Any]] = {}
        self.store: list[Any] = []
        self.request_ids: Mapping[int, str] | str | None = None
        self.model_name: str | None = None
        self.config_file_path = config_file_path

    def set_request_ids(self, request_ids: Mapping[int, str] | str | None) -> None:
        """Set the requests that further changes belong to."""
        self.request_ids = request_ids

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: Any = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = _COUNTER,
    ) -> None:
        """Add a value of any metric."""
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions, metric_type)

    def add_counter(
        self, name: str, value: float, idx: Any = None, dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Add to a counter."""
        self._add(name, value, "count", whose(self.request_ids, idx), dimensions, _COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = _GAUGE,
    ) -> None:
        """Add a duration, in ``ms`` or ``s``."""
        if unit not in _TIMES:
            raise errors.MetricsCacheValueError(f"the unit for a timed metric should be one of {_TIMES}")
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = _GAUGE,
    ) -> None:
        """Add a size, in ``MB``, ``kB``, ``GB`` or ``B``."""
        if unit not in _SIZES:
            raise ValueError(f"The unit for size based metric is one of {_SIZES}")
        self._add(name, value, unit, whose(self.request_ids, idx), dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: Any = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = _GAUGE,
    ) -> None:
        """Add a percentage."""
        self._add(name, value, "percent", whose(self.request_ids, idx), dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] = ()) -> None:
        """Add an error, which belongs to no request."""
        self._add(name, value, "", None, dimensions, _COUNTER)

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        request: str | None,
        dimensions: Sequence[Dimension],
        kind: MetricTypes,
    ) -> None:
        told = {each.name: each.value for each in dimensions or ()}
        if request is None:
            told.setdefault("Level", "Error")
        else:
            told.setdefault("ModelName", self.model_name)
            told.setdefault("Level", "Model")
        try:
            metric = self.get_metric(name, kind)
        except errors.MetricsCacheKeyError:
            metric = self.add_metric_to_cache(name, unit, list(told), kind)
        metric.add_or_update(value, list(told.values()), request or "")

    @staticmethod
    def _check_type(value: object, kind: type, text: str) -> None:
        if not isinstance(value, kind):
            raise errors.MetricsCacheTypeError(text)

    @abc.abstractmethod
    def initialize_cache(self) -> None:
        """Create the declared metrics."""

    @abc.abstractmethod
    def get_metric(self, metric_name: str, metric_type: MetricTypes = _COUNTER) -> MetricAbstract:
        """Return a metric.

        Raises:
            MetricsCacheKeyError: it does not exist.
        """

    @abc.abstractmethod
    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] | None = None,
        metric_type: MetricTypes = _COUNTER,
    ) -> MetricAbstract:
        """Add a metric, replacing one of the same kind and name."""
