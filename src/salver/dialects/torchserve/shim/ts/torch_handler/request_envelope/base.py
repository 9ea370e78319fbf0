"""What does every envelope do?"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class BaseEnvelope(ABC):
    """Lays the data of requests bare for a handler, and wraps what it returns.

    Args:
        handle_fn: The handler's entry point.
    """

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Stands in the handler's place."""
        self.context = context
        if data:
            data = self.parse_input(data)
        results = self._handle_fn(data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """What the handler sees of these requests."""

    @abstractmethod
    def format_output(self, data: list[Any]) -> list[Any]:
        """What their callers see of its answers."""

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"


def shared(results: list[Any], counts: list[int]) -> list[list[Any]] | None:
    """The results of each request, of which so many are its own; None: there are more or fewer."""
    if len(counts) == 1:
        return [results]
    if len(results) != sum(counts):
        return None
    parts, begin = [], 0
    for count in counts:
        parts.append(results[begin : begin + count])
        begin += count
    return parts
