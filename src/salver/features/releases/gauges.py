"""Prometheus gauges of releases and of their ledger.

Metric families from what this server knows of releases at the time of a scrape; it judges nothing.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from salver.lazy import lazy_imports
from salver.words.releases import ReleaseState

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily


if TYPE_CHECKING:
    from salver.features.releases.releases import Releases

_MOST: Final = math.log(1e9)  # beyond which more evidence adds no information


class ReleaseGauges:
    """Collector of the gauges."""

    def __init__(self, releases: "Releases") -> None:
        self._releases = releases

    def __repr__(self) -> str:
        return f"<ReleaseGauges of {len(self._releases.known)} releases>"

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        share = _gauge("share", "Share of the units that this server sends to the canary.")
        harm = _gauge("harm", "Evidence of harm of all metrics together, as a part of what rolls back.")
        units = _gauge("units", "Units that count as evidence, on all servers.", "arm")
        states = _gauge("state", "1 for the state that a release is in, else 0.", "state")
        pauses = _gauge("pauses", "Times that the judge has taken the traffic from the canary.")
        for release in self._releases.known:
            labels = [release.id, release.model, release.canary]
            share.add_metric(labels, self._releases.shares.get(release.id, 0.0))
            for state in ReleaseState:
                states.add_metric([*labels, state.value], float(state is release.state))
            if release.fault:  # without other information
                continue
            pauses.add_metric(labels, release.progress.pauses)
            evidence, policy = release.evidence, release.policy
            harm.add_metric(labels, math.exp(min(evidence.log_e(policy) + math.log(policy.alpha), _MOST)))
            for arm in ("canary", "baseline", "stable"):
                units.add_metric([*labels, arm], getattr(evidence.units, arm))
        yield from (share, harm, units, states, pauses)
        yield GaugeMetricFamily(
            "salver_ledger_silence_seconds",
            "Since releases were read from the ledger, and what was counted was written there.",
            value=self._releases.silence(),
        )


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    labelled = ["release", "model", "version", *labels]
    return GaugeMetricFamily(f"salver_release_{name}", text, labels=labelled)
