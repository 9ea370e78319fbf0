"""Configuration of TensorFlow Serving's interfaces."""

import msgspec

from salver.dialects.tensorflow.metrics import TensorFlowMetricsConfig
from salver.dialects.tensorflow.reloading import NamedModels
from salver.dialects.tensorflow.rules import TfsRules


class TensorFlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of TensorFlow Serving's interfaces.

    Attributes:
        rules: Options of the protocol.
        metrics: Metrics under TensorFlow Serving's names.
        metrics_path: Path of the metrics page, besides ``/metrics``; empty = none.
        served: Models by name, besides those of the server's paths.
        prediction_log: Folder for logs of requests and answers, of models that ask for them; empty = none.
    """

    rules: TfsRules = TfsRules()
    metrics: TensorFlowMetricsConfig = TensorFlowMetricsConfig()
    metrics_path: str = ""
    served: NamedModels = NamedModels()
    prediction_log: str = ""
