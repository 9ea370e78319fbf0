"""Which kinds of metrics are there?"""

import enum


class MetricTypes(enum.Enum):
    """Values are the words of ``metrics.yaml``."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
