"""What else did handlers take from TorchServe's worker?"""

from collections.abc import Iterable

from ts.metrics.lines import LINES

#: Of every run of a handler, in milliseconds.
PREDICTION_METRIC = "PredictionTime"


def emit_metrics(metrics: Iterable[object]) -> None:
    """Hand metrics of ``ts.metrics.metrics_store`` to the server."""
    for metric in metrics or ():
        LINES.add(str(metric))
