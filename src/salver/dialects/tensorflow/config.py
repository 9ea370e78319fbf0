"""Configuration of TensorFlow Serving's interfaces."""

import msgspec

from salver.dialects.tensorflow.metrics import TensorFlowMetricsConfig
from salver.dialects.tensorflow.rules import TfsRules
from salver.kernel.repository import NamedModel


class NamedModels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models by name, and the file that lists them.

    Attributes:
        places: Models at the start; None = models come from paths, and no list may replace them.
        file: File with a text ModelServerConfig; empty = none.
        file_poll_seconds: Seconds between two checks of the file; 0 = it is read once.
        allows_unready_labels: Whether a new label may name a version that cannot answer yet.
    """

    places: tuple[NamedModel, ...] | None = None
    file: str = ""
    file_poll_seconds: float = 0.0
    allows_unready_labels: bool = False


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
