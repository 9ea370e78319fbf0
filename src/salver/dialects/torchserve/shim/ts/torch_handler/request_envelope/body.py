"""Envelope of handlers that take bodies."""

from typing import Any

from ts.handler_utils.bodies import body_of
from ts.torch_handler.request_envelope.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """Envelope that takes ``data`` or ``body`` of each request, and leaves answers unchanged."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return the bodies."""
        return [body_of(row) for row in data]

    def format_output(self, data: list[Any]) -> list[Any]:
        """Return the answers unchanged."""
        return data
