"""JSON encoder of metrics and dimensions."""

from json import JSONEncoder
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(JSONEncoder):
    """Encoder for ``json.dumps(…, cls=MetricEncoder)``."""

    def default(self, obj: Any) -> Any:
        """Return metrics and dimensions as JSON."""
        return obj.to_dict() if isinstance(obj, Metric | Dimension) else super().default(obj)
