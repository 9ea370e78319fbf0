"""Metrics of the instances of models, for the metrics page."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from salver.features.routing.choosing import Routed


class InstanceFigures:
    """Collector of the metrics.

    Args:
        models: Returns the models that are loaded.
    """

    def __init__(self, models: Callable[[], Iterable[Routed]], clock: Callable[[], float]) -> None:
        self._models = models
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        now = self._clock()
        of_model, of_instance = ("model", "version"), ("model", "version", "instance")
        answers = CounterMetricFamily(
            "salver_instance_attempts", "Attempts at an instance.", labels=(*of_instance, "outcome")
        )
        pending = GaugeMetricFamily("salver_instance_pending", "Requests under way.", labels=of_instance)
        there = GaugeMetricFamily(
            "salver_instance_available", "Whether an instance gets requests.", labels=of_instance
        )
        retries = CounterMetricFamily("salver_instance_retries", "Repeated attempts.", labels=of_model)
        hedges = CounterMetricFamily(
            "salver_instance_hedges", "Attempts beside ones that took long.", labels=of_model
        )
        ejections = CounterMetricFamily("salver_instance_ejections", "Ejected instances.", labels=of_model)
        for engine in self._models():
            names = (engine.id.name, engine.id.version)
            for each in engine.router.instances:
                answers.add_metric((*names, each.url, "answered"), each.load.answered)
                answers.add_metric((*names, each.url, "failed"), each.load.failed)
                pending.add_metric((*names, each.url), each.load.pending)
                there.add_metric((*names, each.url), float(each.is_available(now)))
            retries.add_metric(names, engine.router.retries)
            hedges.add_metric(names, engine.router.hedges)
            ejections.add_metric(names, engine.router.ejected)
        yield from (answers, pending, there, retries, hedges, ejections)
