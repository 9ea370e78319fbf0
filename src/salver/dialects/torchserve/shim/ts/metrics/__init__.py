"""Metrics of handlers."""

from ts.metrics import dimension, metric, metric_encoder, metrics_store, unit

__all__ = ["dimension", "metric", "metric_encoder", "metrics_store", "unit"]
