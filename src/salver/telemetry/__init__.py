"""What does the server tell its operators? Metrics, statistics and logs, from events and on request."""

from salver.telemetry.eventlog import EventLog
from salver.telemetry.explain import Explanations
from salver.telemetry.logs import LogConfig, configure
from salver.telemetry.metrics import Metrics
from salver.telemetry.ports import Load, Present
from salver.telemetry.statistics import Statistics

__all__ = ["EventLog", "Explanations", "Load", "LogConfig", "Metrics", "Present", "Statistics", "configure"]
