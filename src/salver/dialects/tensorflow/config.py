"""Configuration of TensorFlow Serving's interfaces."""

import msgspec

from salver.dialects.tensorflow.metrics import TensorFlowMetricsConfig
from salver.dialects.tensorflow.reloading import Served
from salver.dialects.tensorflow.rules import TfsRules


class TensorFlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What TensorFlow Serving's clients and operators see.

    Attributes:
        rules: How requests are answered.
        metrics: Which metrics have TensorFlow Serving's names.
        metrics_path: Path of the metrics page, besides ``/metrics``; empty = none.
        served: Models by name, beside those of the server's paths.
        prediction_log: Folder that takes requests with their answers, of models that want it; empty = none.
    """

    rules: TfsRules = TfsRules()
    metrics: TensorFlowMetricsConfig = TensorFlowMetricsConfig()
    metrics_path: str = ""
    served: Served = Served()
    prediction_log: str = ""
