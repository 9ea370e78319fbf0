"""Functions of TorchServe's worker that handlers import."""

from collections.abc import Iterable

from ts.metrics.lines import LINES

#: Metric of every run of a handler, in milliseconds.
PREDICTION_METRIC = "PredictionTime"


def emit_metrics(metrics: Iterable[object]) -> None:
    """Pass metrics of ``ts.metrics.metrics_store`` to the server."""
    for metric in metrics or ():
        LINES.add(str(metric))
