"""Metrics of the memory budget."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from salver.features.memory.residence import REASONS, Residence


class MemoryFigures:
    """Collector of the metrics."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        residence = self._residence
        yield GaugeMetricFamily(
            "salver_memory_budget_bytes", "Memory that the server may use.", value=residence.budget
        )
        yield GaugeMetricFamily(
            "salver_memory_used_bytes",
            "Memory that the server and its processes use (proportional set size).",
            value=residence.used,
        )
        yield GaugeMetricFamily(
            "salver_memory_reserve_bytes",
            "Memory that no version is given: for requests, and what runs take for a moment.",
            value=residence.reserve.bytes,
        )
        yield CounterMetricFamily(
            "salver_memory_refusals", "Demands for a model without room for it.", value=residence.refusals
        )
        yield from _devices(residence)
        labels = ("model", "version")
        sizes = GaugeMetricFamily(
            "salver_memory_model_bytes", "Memory of a version that is loaded.", labels=labels
        )
        loads = CounterMetricFamily("salver_memory_loads", "Loads of a version.", labels=labels)
        for id, each in residence.residents.all.items():
            if each.is_up:
                sizes.add_metric((id.name, id.version), each.bytes)
            if each.loads:  # thousands may never be asked
                loads.add_metric((id.name, id.version), each.loads)
        evictions = CounterMetricFamily(
            "salver_memory_evictions", "Versions that were unloaded, by reason.", labels=("reason",)
        )
        for reason in REASONS:
            evictions.add_metric((reason,), residence.evictions[reason])
        yield from (sizes, loads, evictions)
        yield from _ahead(residence)


def _devices(residence: Residence) -> Iterator[Metric]:
    """Return the metrics of device memory."""
    budgets = GaugeMetricFamily(
        "salver_memory_device_budget_bytes", "Memory of a device that the server may use.", labels=("device",)
    )
    used = GaugeMetricFamily(
        "salver_memory_device_used_bytes", "Memory of a device that the server uses.", labels=("device",)
    )
    largest = GaugeMetricFamily(
        "salver_memory_device_largest_free_bytes", "Largest free piece of a device.", labels=("device",)
    )
    for name, pool in residence.device_pools().items():
        budgets.add_metric((name,), pool.budget)
        used.add_metric((name,), pool.used)
        largest.add_metric((name,), pool.largest)
    yield from (budgets, used, largest)


def _ahead(residence: Residence) -> Iterator[Metric]:
    """Return the metrics of loads ahead."""
    loads = CounterMetricFamily(
        "salver_memory_loads_ahead",
        "Loads before anybody asked, by source of the forecast and by whether somebody asked in time.",
        labels=("source", "outcome"),
    )
    seconds = CounterMetricFamily(
        "salver_memory_ahead_seconds", "Seconds of waiting by loads ahead.", labels=("source", "kind")
    )
    is_on = GaugeMetricFamily(
        "salver_memory_ahead_on", "Whether a source of forecasts loads ahead.", labels=("source",)
    )
    for source, account in residence.ahead.bets.accounts.items():
        loads.add_metric((source, "used"), account.used)
        loads.add_metric((source, "unused"), account.unused)
        seconds.add_metric((source, "saved"), account.saved)
        seconds.add_metric((source, "spent"), account.spent)
        is_on.add_metric((source,), account.is_on)
    yield from (loads, seconds, is_on)
