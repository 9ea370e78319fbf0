"""What do other people's controllers ask of releases?

Argo Rollouts' web metric reads a verdict, Flagger's webhooks a status. They ask, and change nothing.
"""

import math
from typing import Any, Literal

import msgspec

from salver.errors import Conflict
from salver.releases import ReleaseState
from salver.rollout.record import Release
from salver.rollout.verdict import Decision, Verdict
from salver.transport.api.releases import ReleaseStore, last_look
from salver.transport.api.table import Answer, Asked, Operation

#: Flagger's hooks: may the canary get more; is nothing wrong; may it get everything; has it to go?
Hook = Literal["confirm-rollout", "rollout", "confirm-promotion", "rollback"]


class Judged(msgspec.Struct, frozen=True):
    """A release in one word.

    Attributes:
        verdict: ``pass``: it is promoted, or every gate of its stage is passed. ``fail``: it is rolled back.
            Whatever lies between proves neither; no data proves nothing.
        p: Chance of so much evidence of harm in a release that does none, whenever one looks; at most.
        n: Units, or requests, that met the canary.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    p: float
    n: int
    state: ReleaseState
    reason: str


class HookQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of Flagger's hooks asks."""

    hook: Hook = "rollout"


class Hooked(msgspec.Struct, frozen=True):
    """Yes; a no is a problem."""

    state: ReleaseState
    reason: str


def plug_operations(releases: ReleaseStore) -> list[Operation]:
    """Those of releases."""

    async def last(asked: Asked) -> tuple[Release, Verdict | None]:
        release = await releases.get(asked.names["release"])
        look = await last_look(releases, release)
        return release, look.verdict if look else None

    async def tell_verdict(asked: Asked) -> Answer:
        release, verdict = await last(asked)
        return Answer(judged(release, verdict))

    async def answer_hook(asked: Asked) -> Answer:
        release, verdict = await last(asked)
        if not says_yes(asked.query.hook, release, verdict):
            raise Conflict(f"no: release '{release.id}' is {release.state.value}: {release.reason}")
        return Answer(Hooked(release.state, release.reason))

    one = "/releases/{release}"
    return [
        Operation("verdict", "GET", f"{one}/verdict", "For Argo Rollouts' web metric", tell_verdict, Judged),
        Operation(
            "flagger",
            "POST",
            f"{one}/flagger",
            "For Flagger's webhooks: 200 is yes, 409 is no",
            answer_hook,
            Hooked,
            dict[str, Any],
            query=HookQuery,
        ),
    ]


def judged(release: Release, verdict: Verdict | None) -> Judged:
    """A release in one word."""
    word: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if release.state is ReleaseState.ROLLED_BACK:
        word = "fail"
    elif release.state is ReleaseState.PROMOTED or (verdict and verdict.decision is Decision.PROMOTE):
        word = "pass"
    if verdict is None:
        return Judged(word, 1.0, 0, release.state, release.reason)
    seen = max((metric.units.canary for metric in verdict.metrics), default=0)
    return Judged(word, math.exp(-max(0.0, verdict.log_e)), seen, release.state, release.reason)


def says_yes(hook: Hook, release: Release, verdict: Verdict | None) -> bool:
    """Is that what Flagger waits for? What is not known is no reason to go on, nor to go back."""
    is_over = release.state is ReleaseState.PROMOTED
    match hook:
        case "rollback":
            return release.state is ReleaseState.ROLLED_BACK
        case "rollout":
            return release.state is not ReleaseState.ROLLED_BACK
        case "confirm-rollout":
            return is_over or release.state is ReleaseState.RUNNING
        case "confirm-promotion":
            is_last = (
                verdict is not None and verdict.decision is Decision.PROMOTE and verdict.next_stage is None
            )
            return is_over or (release.state is ReleaseState.RUNNING and is_last)
