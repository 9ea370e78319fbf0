"""What does a handler see that wants bodies alone?"""

from typing import Any

from ts.handler_utils.bodies import body_of
from ts.torch_handler.request_envelope.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """Of each request its ``data`` or ``body``; answers go as they are."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """The bodies."""
        return [body_of(row) for row in data]

    def format_output(self, data: list[Any]) -> list[Any]:
        """As they are."""
        return data
