"""What a handler counts and measures, and how that reaches the server."""

from ts.metrics import dimension, metric, metric_encoder, metrics_store, unit

__all__ = ["dimension", "metric", "metric_encoder", "metrics_store", "unit"]
