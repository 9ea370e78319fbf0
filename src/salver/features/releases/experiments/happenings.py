"""Metrics that count an event, for which the answering version is responsible.

Pure. Which of them matter is up to the policy (``features/releases/judge/``).
"""

from collections.abc import Mapping
from typing import Final

from salver.words.errors import Code
from salver.words.events import Served

ERRORS: Final = "errors"  # the model raised, its process died, or a handler returned a status of 500 or more
INVALID: Final = "invalid"  # its outputs do not match its signature
#: No answer before the caller's deadline, before the caller hung up, or for far too long.
TIMEOUTS: Final = "timeouts"
FALLBACKS: Final = "fallbacks"  # a version other than that of the arm answered
REFUSED: Final = "refused"  # more requests than it can answer
#: It rejected the request as wrong or unsupported: the caller's fault, equally in all arms, unless the
#: version is stricter than the previous one.
REJECTED: Final = "rejected"

#: Metrics that are counted in each release.
EVERYWHERE: Final = (ERRORS, INVALID, TIMEOUTS, FALLBACKS, REFUSED, REJECTED)

_BY_OUTCOME: Final[Mapping[str, str]] = {
    Code.MODEL_FAILED.value: ERRORS,
    Code.UNKNOWN.value: ERRORS,
    Code.INTERNAL.value: ERRORS,
    Code.NOT_READY.value: ERRORS,  # it has no worker, and will have none
    Code.DEADLINE_EXCEEDED.value: TIMEOUTS,
    # callers of all arms disconnect; of a version that hangs they do nothing else
    Code.CANCELLED.value: TIMEOUTS,
    Code.OVERLOADED.value: REFUSED,
    Code.INVALID_INPUT.value: REJECTED,
    Code.NOT_FOUND.value: REJECTED,  # a signature or a LoRA
    Code.TOO_LARGE.value: REJECTED,
    Code.UNSUPPORTED.value: REJECTED,  # a single response of a streaming version
}
OK: Final = "ok"


def happened(event: Served, slow: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics that count an event.

    Args:
        event: An event with an assignment.
        slow: By metric, seconds from which an answer is slow.
    """
    outcome, found = event.outcome, []
    metric = _BY_OUTCOME.get(outcome) if event.version else None  # no blame if nothing was there
    if event.why == "status":
        metric = ERRORS
    if metric is not None:
        found.append(INVALID if event.why == "output" else metric)
    if is_fallback(event):
        found.append(FALLBACKS)
    if slow and ((outcome == OK and metric is None) or metric == TIMEOUTS):
        found += [name for name, seconds in slow.items() if event.latency > seconds]
    return found


def is_fallback(event: Served) -> bool:
    """Return whether a version other than that of the arm answered."""
    assigned = event.assignment
    return assigned is not None and event.version not in ("", assigned.version)
