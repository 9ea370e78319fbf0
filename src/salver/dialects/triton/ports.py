"""Protocols of what Triton's extensions need from the server."""

from typing import Any, Protocol

from salver.dialects.triton.settings import LogChange, LogSettings, TraceChange, TraceSetting
from salver.transport.ports import Exposition


class Settings(Protocol):
    """What is logged and traced; it may be changed at any time (TR-R9, TR-R10)."""

    def log_settings(self, change: LogChange) -> LogSettings:
        """As they are after the change, which may be empty. Raises Unsupported."""
        ...

    def trace_setting(self, model: str, change: TraceChange) -> TraceSetting:
        """A model's, or, without a name, the server's, after the change.

        Raises:
            InvalidInput: the model does not exist, or nothing can be traced so.
            Unsupported: the level is not supported.
        """
        ...


class TritonExposition(Settings, Exposition, Protocol):
    """Numbers in Triton's form, and settings."""

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Triton-shaped statistics (TR-R8)."""
        ...
