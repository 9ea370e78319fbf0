"""What has happened to a request, as far as the version that answered it is to blame?

Pure. Which of it matters is its owner's policy (``rollout/``).
"""

from collections.abc import Mapping
from typing import Final

from salver.words.errors import Code
from salver.words.events import Served

ERRORS: Final = "errors"  # the model raised, its process died, or a handler gave a status of 500 or more
INVALID: Final = "invalid"  # its outputs are not those that it promises
#: No answer before the caller's deadline, before the caller hung up, or for far too long.
TIMEOUTS: Final = "timeouts"
FALLBACKS: Final = "fallbacks"  # another version than the arm's has answered
REFUSED: Final = "refused"  # there were more requests than it can answer
#: It found the request wrong, or takes none of its kind: the caller's fault, which all arms meet alike,
#: unless the version is stricter than the one before.
REJECTED: Final = "rejected"

_BY_OUTCOME: Final[Mapping[str, str]] = {
    Code.MODEL_FAILED.value: ERRORS,
    Code.UNKNOWN.value: ERRORS,
    Code.INTERNAL.value: ERRORS,
    Code.NOT_READY.value: ERRORS,  # it has no worker, and will have none
    Code.DEADLINE_EXCEEDED.value: TIMEOUTS,
    Code.CANCELLED.value: TIMEOUTS,  # callers of all arms leave; of a version that hangs they do nothing else
    Code.OVERLOADED.value: REFUSED,
    Code.INVALID_INPUT.value: REJECTED,
    Code.NOT_FOUND.value: REJECTED,  # a signature, a LoRA
    Code.TOO_LARGE.value: REJECTED,
    Code.UNSUPPORTED.value: REJECTED,  # one response, of a version that gives any number
}
OK: Final = "ok"


def happened(event: Served, slow: Mapping[str, float]) -> list[str]:
    """Names of the metrics that count it.

    Args:
        event: With an assignment.
        slow: By metric, seconds from which on an answer is slow.
    """
    outcome, found = event.outcome, []
    metric = _BY_OUTCOME.get(outcome) if event.version else None  # nobody's, where nobody was there
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
    """Has another version answered than that of its arm?"""
    assigned = event.assignment
    return assigned is not None and event.version not in ("", assigned.version)
