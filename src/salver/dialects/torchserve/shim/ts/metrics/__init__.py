"""Metrics of handlers, by the names of TorchServe's modules."""

from ts.metrics import dimension, metric, metric_encoder, metrics_store, unit

__all__ = ["dimension", "metric", "metric_encoder", "metrics_store", "unit"]
