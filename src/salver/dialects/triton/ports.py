"""Protocols that Triton's extensions need from the server."""

from typing import Any, Protocol

from salver.dialects.triton.settings import LogChange, LogSettings, TraceChange, TraceSetting


class TritonMonitor(Protocol):
    """Statistics, and settings of log and traces, which may change at any time (TR-R8 to TR-R10)."""

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return statistics in Triton's form."""
        ...

    def log_settings(self, change: LogChange) -> LogSettings:
        """Return the settings after a change, which may be empty. Raises Unsupported."""
        ...

    def trace_setting(self, model: str, change: TraceChange) -> TraceSetting:
        """Return the settings of a model, or without a name the server's, after a change.

        Raises:
            InvalidInput: The model does not exist, or the settings do not fit together.
            Unsupported: The level is not supported.
        """
        ...
