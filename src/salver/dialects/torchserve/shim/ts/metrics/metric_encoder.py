"""How are metrics and dimensions written as JSON?"""

from json import JSONEncoder
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(JSONEncoder):
    """For ``json.dumps(…, cls=MetricEncoder)``."""

    def default(self, obj: Any) -> Any:
        """What JSON has no word for."""
        return obj.to_dict() if isinstance(obj, Metric | Dimension) else super().default(obj)
