"""Telemetry: metrics, statistics, logs and traces, from events and on request."""

from salver.feature import Feature

feature = Feature("telemetry", "salver.features.telemetry.building:build")
