"""Management operations for external rollout controllers.

Argo Rollouts' web metric reads a verdict, Flagger's webhooks read a status (docs/how-to/controllers.md). They
only read. Their settings are written before a release has an id, so they may also name it by model and new
version.
"""

import math
from typing import Any, Literal

import msgspec

from salver.features.releases.judge.record import Release
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.features.releases.release_operations import ReleaseStore, last_look
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import Conflict, NotFound
from salver.words.releases import ReleaseState

#: Flagger's hooks in the order of a canary's life. The last two only notify.
Hook = Literal[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "rollback",
    "post-rollout",
    "event",
]


class Judged(msgspec.Struct, frozen=True):
    """Verdict on a release in one word.

    Attributes:
        verdict: ``pass``: promoted, or every gate of the last stage is passed. ``fail``: rolled back.
            Otherwise neither is proven; the same holds without data.
        p: Upper bound on the probability of that much evidence of harm in a harmless release, valid at any
            time.
        n: Units, or requests, of the canary.
        stage: Number of its ``stages`` that it has passed.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    p: float
    n: int
    state: ReleaseState
    stage: int
    stages: int
    reason: str


class HookQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameter: which of Flagger's hooks is calling."""

    hook: Hook = "rollout"


class Hooked(msgspec.Struct, frozen=True):
    """Positive answer; a negative one is an error."""

    state: ReleaseState
    reason: str


def plug_operations(releases: ReleaseStore) -> list[Operation]:
    """Return the operations for controllers."""

    async def found(asked: ApiRequest) -> Release:
        if "release" in asked.names:
            return await releases.get(asked.names["release"])
        model, version = asked.names["model"], asked.names["version"]
        if newest := await releases.listed(model, canary=version, most=1):
            return newest[0]
        raise NotFound(
            f"version {version} of model '{model}' has met no traffic in a release",
            field="version",
            fix=f"Start one: salver rollout start {model} {version}.",
        )

    async def last(asked: ApiRequest) -> tuple[Release, Verdict | None]:
        release = await found(asked)
        look = await last_look(releases, release)
        return release, look.verdict if look else None

    async def tell_verdict(asked: ApiRequest) -> Answer:
        release, verdict = await last(asked)
        return Answer(judged(release, verdict))

    async def answer_hook(asked: ApiRequest) -> Answer:
        release, verdict = await last(asked)
        if not says_yes(asked.query.hook, release, verdict):
            raise Conflict(f"no: release '{release.id}' is {release.state.value}: {release.reason}")
        return Answer(Hooked(release.state, release.reason))

    asks, hooks = "For Argo Rollouts' web metric", "For Flagger's webhooks: 200 is yes, 409 is no"
    return [
        operation
        for suffix, one in (
            ("", "/releases/{release}"),
            ("_of_version", "/models/{model}/versions/{version}"),
        )
        for operation in (
            Operation(f"verdict{suffix}", "GET", f"{one}/verdict", asks, tell_verdict, Judged),
            Operation(
                f"flagger{suffix}",
                "POST",
                f"{one}/flagger",
                hooks,
                answer_hook,
                Hooked,
                dict[str, Any],
                query=HookQuery,
            ),
        )
    ]


def judged(release: Release, verdict: Verdict | None) -> Judged:
    """Return the verdict on a release."""
    word: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if release.state is ReleaseState.ROLLED_BACK:
        word = "fail"
    elif _is_through(release, verdict):
        word = "pass"
    chance, seen = 1.0, 0
    if verdict is not None:
        chance = math.exp(-max(0.0, verdict.log_e))
        seen = max((metric.units.canary for metric in verdict.metrics), default=0)
    stages = len(release.policy.stages)
    return Judged(word, chance, seen, release.state, min(release.stage, stages), stages, release.reason)


def _is_through(release: Release, verdict: Verdict | None) -> bool:
    """Return whether it has all of the traffic, or may have it; evidence of a single stage is not enough."""
    is_last = verdict is not None and verdict.decision is Decision.PROMOTE and verdict.next_stage is None
    return release.state is ReleaseState.PROMOTED or (release.state is ReleaseState.RUNNING and is_last)


def says_yes(hook: Hook, release: Release, verdict: Verdict | None) -> bool:
    """Return the answer to a hook of Flagger; if unknown, neither continue nor roll back."""
    match hook:
        case "rollback":
            return release.state is ReleaseState.ROLLED_BACK
        # a negative answer counts towards Flagger's own threshold, so only harm is one
        case "pre-rollout" | "rollout":
            return release.state is not ReleaseState.ROLLED_BACK
        case "confirm-rollout":
            return release.state in (ReleaseState.RUNNING, ReleaseState.PROMOTED)
        case "confirm-traffic-increase":  # not while the canary answers only copies
            is_met = release.state is ReleaseState.RUNNING and release.weight > 0
            return is_met or release.state is ReleaseState.PROMOTED
        case "confirm-promotion":
            return _is_through(release, verdict)
        case "post-rollout" | "event":
            return True
