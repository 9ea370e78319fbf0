"""Kinds of metrics, as ``metrics.yaml`` names them."""

import enum


class MetricTypes(enum.Enum):
    """Kinds of metrics, with their words in ``metrics.yaml``."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
