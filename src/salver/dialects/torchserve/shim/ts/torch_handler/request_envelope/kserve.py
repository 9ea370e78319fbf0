"""Envelope of KServe's first protocol (TS-R6)."""

from typing import Any

from ts.handler_utils.bodies import json_of
from ts.torch_handler.request_envelope.base import BaseEnvelope, shared


class KServeEnvelope(BaseEnvelope):
    """Envelope that joins the instances of all requests, and answers ``predictions`` or ``explanations``."""

    _counts: list[int] = []

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return the instances."""
        parts = [json_of(row).get("instances") for row in data]
        if len(parts) == 1:
            self._counts = [1]
            return parts[0]  # type: ignore[no-any-return]
        self._counts = [len(part) for part in parts]
        return [instance for part in parts for instance in part]

    def format_output(self, data: list[Any]) -> list[Any]:
        """Return an object for each request."""
        parts = shared(data, self._counts)
        key = "explanations" if self._is_explain() else "predictions"
        return data if parts is None else [{key: part} for part in parts]
