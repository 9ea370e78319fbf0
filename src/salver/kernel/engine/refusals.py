"""In which words do all engines refuse, and until when do they work for a caller who does not say?

The texts are Triton's where it has one (TR-R30), since its clients' users search for them. Pure.
"""

from typing import Final

from salver.words.errors import NotReady, Overloaded, Refusal, tritons
from salver.words.messages import ModelId

#: Of a request whose time is over.
LATE: Final = "Request timeout expired"


def full(fix: str = "", why: Refusal = "queue_full") -> Overloaded:
    """As many requests wait, or are under way, as may.

    Args:
        fix: How many there are, and what to do.
    """
    text = "Exceeds maximum queue size"
    return tritons(Overloaded(text, fix=fix, why=why), text)


def so_many(count: int, what: str = "requests") -> str:
    """How many there are, and what to do.

    >>> so_many(7)
    '7 requests are waiting; retry later.'
    """
    return f"{count} {what} are waiting; retry later."


def closing(id: ModelId) -> NotReady:
    """The version takes no request any more."""
    return NotReady(f"model '{id.name}' version {id.version} is shutting down")


def unloaded(id: ModelId) -> NotReady:
    """The version is gone, and the request was not answered, or not to its end."""
    return NotReady(f"model '{id.name}' version {id.version} was unloaded")


def due(deadline: float | None, now: float, default_ms: float) -> float | None:
    """The deadline, or the model's own default; None = there is none.

    >>> due(None, 100.0, 500.0), due(None, 100.0, 0.0), due(7.0, 100.0, 500.0)
    (100.5, None, 7.0)
    """
    return now + default_ms / 1e3 if deadline is None and default_ms else deadline
