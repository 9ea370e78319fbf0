"""Base class of envelopes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class BaseEnvelope(ABC):
    """Envelope that unwraps requests for a handler, and wraps its answers.

    Args:
        handle_fn: Entry point of the handler.
    """

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Run the handler in its envelope."""
        self.context = context
        if data:
            data = self.parse_input(data)
        results = self._handle_fn(data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return the handler's data for these requests."""

    @abstractmethod
    def format_output(self, data: list[Any]) -> list[Any]:
        """Return the answers for callers."""

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"


def shared(results: list[Any], counts: list[int]) -> list[list[Any]] | None:
    """Return the results of each request, given their number; None if the total differs."""
    if len(counts) == 1:
        return [results]
    if len(results) != sum(counts):
        return None
    parts, begin = [], 0
    for count in counts:
        parts.append(results[begin : begin + count])
        begin += count
    return parts
