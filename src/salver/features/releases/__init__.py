"""Releases: new versions that receive traffic in stages and are judged by the results."""

from salver.feature import Feature
from salver.features.registry import RegistryConfig

feature = Feature(
    "registry",
    "salver.features.releases.building:build",
    config=RegistryConfig,
    has_table=False,
    is_used=lambda config: bool(config.ledger),
    after=("telemetry",),
)
