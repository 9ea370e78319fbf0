"""Metrics of a handler: those that ``metrics.yaml`` declares, and its own."""

import logging
from pathlib import Path
from typing import Any

from ts.metrics import metric_cache_errors as errors
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes

_log = logging.getLogger(__name__)
_LABELS = ["ModelName", "Level"]
#: Metrics of models in TorchServe's default file.
_USUAL: Any = {
    "model_metrics": {
        "gauge": [
            {"name": "HandlerTime", "unit": "ms", "dimensions": _LABELS},
            {"name": "PredictionTime", "unit": "ms", "dimensions": _LABELS},
        ]
    }
}


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """Implementation of ``context.metrics``.

    Args:
        config_file_path: Path of a ``metrics.yaml``; None = TorchServe's default.
    """

    def __init__(self, config_file_path: str | None = None) -> None:
        super().__init__(config_file_path)
        self._declared = _parsed(config_file_path) if config_file_path else _USUAL

    def initialize_cache(self) -> None:
        """Create the declared metrics.

        Raises:
            MetricsCacheKeyError: a kind is unknown, or a key is missing.
            MetricsCacheValueError: the file declares no metrics of models.
        """
        section = self._declared.get("model_metrics") if isinstance(self._declared, dict) else None
        if not section:
            raise errors.MetricsCacheValueError("Missing `model_metrics` specification")
        for word, metrics in section.items():
            try:
                kind = MetricTypes(word)
            except ValueError as error:
                raise errors.MetricsCacheKeyError(f"Invalid metric type: {error}") from error
            for each in metrics or ():
                try:
                    self.add_metric_to_cache(each["name"], each["unit"], each["dimensions"], kind)
                except KeyError as error:
                    raise errors.MetricsCacheKeyError(f"Key not found in cache spec: {error}") from error

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Add a metric, replacing one of the same kind and name."""
        self._check_type(metric_name, str, "`metric_name` must be a str")
        self._check_type(unit, str, "`unit` must be a str")
        self._check_type(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum")
        if dimension_names:
            text = "`dimension_names` should be a list of dimension name strings"
            self._check_type(dimension_names, list, text)
        own = self.cache.setdefault(metric_type, {})
        if metric_name in own:
            _log.warning("Overriding existing key %s:%s", metric_type, metric_name)
        own[metric_name] = metric = CachingMetric(metric_name, unit, dimension_names, metric_type)
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """Return a metric.

        Raises:
            MetricsCacheKeyError: it does not exist.
        """
        self._check_type(metric_name, str, "`metric_name` must be a str")
        self._check_type(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum")
        try:
            metric: CachingMetric = self.cache[metric_type][metric_name]
        except KeyError as error:
            raise errors.MetricsCacheKeyError(
                f"Metric of type '{metric_type}' and name '{metric_name}' doesn't exist"
            ) from error
        return metric

    def cache_keys(self) -> list[str]:
        """Return kind and name of every metric."""
        return [f"{kind.value}:{name}" for kind, own in self.cache.items() for name in own]


def _parsed(path: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise errors.MetricsCachePyYamlError(f"Error parsing file {path}: {error}") from error
    except OSError as error:
        raise errors.MetricsCacheIOError(f"Error reading file {path}: {error}") from error
