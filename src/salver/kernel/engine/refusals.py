"""Errors and default deadlines that all engines share.

The texts are Triton's if it has one (TR-R30), because users search for them. Pure.
"""

from typing import Final

from salver.words.errors import NotReady, Overloaded, Refusal, tritons
from salver.words.messages import ModelId

#: Text for a request whose deadline has passed.
LATE: Final = "Request timeout expired"


def full(fix: str = "", why: Refusal = "queue_full") -> Overloaded:
    """Return the error of a full queue.

    Args:
        fix: The number of waiting requests, and what to do.
    """
    text = "Exceeds maximum queue size"
    return tritons(Overloaded(text, fix=fix, why=why), text)


def so_many(count: int, what: str = "requests") -> str:
    """Return the number of waiting requests and what to do, as text.

    >>> so_many(7)
    '7 requests are waiting; retry later.'
    """
    return f"{count} {what} are waiting; retry later."


def closing(id: ModelId) -> NotReady:
    """Return the error for a version that is closing."""
    return NotReady(f"model '{id.name}' version {id.version} is shutting down")


def unloaded(id: ModelId) -> NotReady:
    """Return the error for a request that an unloaded version did not answer completely."""
    return NotReady(f"model '{id.name}' version {id.version} was unloaded")


def due(deadline: float | None, now: float, default_ms: float) -> float | None:
    """Return the deadline, or the model's default; None = none.

    >>> due(None, 100.0, 500.0), due(None, 100.0, 0.0), due(7.0, 100.0, 500.0)
    (100.5, None, 7.0)
    """
    if deadline is None and default_ms:
        return now + default_ms / 1e3
    return deadline
