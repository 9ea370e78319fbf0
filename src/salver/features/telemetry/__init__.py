"""Telemetry: metrics, statistics, logs and traces, from events and on request."""
