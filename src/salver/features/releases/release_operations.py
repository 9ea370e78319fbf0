"""Management operations on releases in the ledger, posted outcomes, and forecasts.

A change is a request, stored here and processed by a server on its next tick; the answer waits briefly for
that. Nothing is decided here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from salver.features.registry.records import Actor, Model
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_views import actor
from salver.features.releases import release_views as views
from salver.features.releases.carriers import told
from salver.features.releases.experiments.shadows import ShadowReport
from salver.features.releases.experiments.windows import counted_by
from salver.features.releases.judge.explain import explain
from salver.features.releases.judge.outlook import outlook
from salver.features.releases.judge.record import Release, What
from salver.features.releases.judge.verdict import Verdict
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.proposals import Proposal
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.release_views import (
    Evidence,
    Explained,
    LastLook,
    Outcomes,
    Plan,
    PlanView,
    ReleaseView,
    evidence,
)
from salver.features.releases.shadow import Shadowing
from salver.transport.access_check import OUTCOMES
from salver.transport.operations import Answer, ApiRequest, NoQuery, Operation, Page, Why, tag_of
from salver.words.errors import Conflict, InvalidInput, NotFound, Outdated
from salver.words.releases import Receipt

_WAIT_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.1
_MOST_BODY: Final = 8 << 20  # bytes of posted outcomes


class Ledger(msgspec.Struct, frozen=True):
    """Dependencies of these operations.

    Attributes:
        propose: Stores a new release, with its author and reason.
        wall: Unix seconds.
    """

    releases: ReleaseStore
    propose: Callable[[Proposal, Actor, str], Awaitable[Release]]
    shadows: Shadowing
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def release_operations(ledger: Ledger) -> list[Operation]:
    """Return the operations on releases."""
    one = "/releases/{release}"
    changes: tuple[tuple[What, str], ...] = (
        ("pause", "Pause a release at its weight; harm still rolls it back"),
        ("resume", "Resume a release"),
        ("promote", "Promote a release to its next stage, regardless of evidence"),
        ("abort", "Abort a release; the stable version gets all traffic"),
    )
    lists, points, done = views.ReleasesQuery, views.EvidenceQuery, views.Wished
    looks = (
        ("list_releases", "/releases", "Releases, the newest first", _list, Page[ReleaseView], lists),
        ("release", one, "A release with its latest verdict", _tell, views.ReleaseDetail, NoQuery),
        (
            "explain_release",
            f"{one}/explain",
            "Explanation of a release's state",
            _explain,
            Explained,
            NoQuery,
        ),
        (
            "shadow",
            f"{one}/shadow",
            "Comparison of a release's shadow requests",
            _shadow,
            ShadowReport,
            NoQuery,
        ),
        ("evidence", f"{one}/evidence", "Counts and verdicts of a release", _tell_evidence, Evidence, points),
    )
    start = "Start a release"
    run, new = partial(_start, ledger), views.NewRelease
    return [
        *(
            Operation(name, "GET", path, summary, partial(run, ledger), gives, query=query)
            for name, path, summary, run, gives, query in looks
        ),
        Operation(
            "start_release",
            "POST",
            "/releases",
            start,
            run,
            ReleaseView,
            new,
            changes=True,
            right="releases",
            status=201,
        ),
        *(
            Operation(
                f"{what}_release",
                "POST",
                f"{one}/{what}",
                summary,
                run,
                done,
                Why,
                changes=True,
                right="releases",
            )
            for what, summary in changes
            for run in (partial(_wish, ledger, what),)
        ),
    ]


def policy_operation(registry: ModelRegistry) -> Operation:
    """Return the operation that sets a model's policy."""
    path, what, new = "/models/{model}/policy", "Set the policy for moves of aliases", views.NewPolicy
    run = partial(_set_policy, registry)
    operation = Operation("set_policy", "PUT", path, what, run, Model, new, changes=True, is_conditional=True)
    return msgspec.structs.replace(operation, right="releases")


def outcome_operations(outcomes: OutcomeStore) -> list[Operation]:
    """Return the operation for posting outcomes of requests and units, later and in batches."""

    async def post(asked: ApiRequest) -> Answer:
        return Answer(await outcomes.accept(asked.body.outcomes))

    return [
        Operation(
            "post_outcomes",
            "POST",
            "/outcomes",
            "Post outcomes of requests or units",
            post,
            Receipt,
            Outcomes,
            changes=True,
            role=OUTCOMES,
            right="outcomes",
            most_body=_MOST_BODY,
        )
    ]


def planning_operations() -> list[Operation]:
    """Return the operation for the forecast of a release."""

    async def plan(asked: ApiRequest) -> Answer:
        views.check_size(asked.body.policy)
        # off the event loop, because it takes long
        seen = await asyncio.to_thread(outlook, asked.body.policy, asked.body.traffic)
        return Answer(views.plan_view(asked.body.policy, seen))

    return [
        Operation(
            "plan",
            "POST",
            "/plan",
            "Predict what a policy would detect in given traffic",
            plan,
            PlanView,
            Plan,
        )
    ]


def plug_operations(releases: ReleaseStore) -> list[Operation]:
    """Return the operations for external rollout controllers, which only read.

    Their settings are written before a release has an id, so they may also name it by model and new version.
    """

    async def found(asked: ApiRequest) -> tuple[Release, Verdict | None]:
        if "release" in asked.names:
            release = await releases.get(asked.names["release"])
        else:
            model, version = asked.names["model"], asked.names["version"]
            newest = await releases.listed(model, canary=version, most=1)
            if not newest:
                raise NotFound(
                    f"version {version} of model '{model}' has met no traffic in a release",
                    field="version",
                    fix=f"Start one: salver rollout start {model} {version}.",
                )
            release = newest[0]
        if look := await last_look(releases, release):
            return release, look.verdict
        return release, None

    async def tell_verdict(asked: ApiRequest) -> Answer:
        return Answer(views.judged(*await found(asked)))

    async def answer_hook(asked: ApiRequest) -> Answer:
        release, verdict = await found(asked)
        if not views.says_yes(asked.query.hook, release, verdict):
            raise Conflict(f"no: release '{release.id}' is {release.state.value}: {release.reason}")
        return Answer(views.Hooked(release.state, release.reason))

    asks, hooks = (
        "Verdict for Argo Rollouts' web metric",
        "Gate for Flagger's webhooks: 200 is yes, 409 is no",
    )
    body, query, yes = dict[str, Any], views.HookQuery, views.Hooked
    both = ("", "/releases/{release}"), ("_of_version", "/models/{model}/versions/{version}")
    return [
        operation
        for suffix, one in both
        for operation in (
            Operation(f"verdict{suffix}", "GET", f"{one}/verdict", asks, tell_verdict, views.Judged),
            Operation(f"flagger{suffix}", "POST", f"{one}/flagger", hooks, answer_hook, yes, body, query),
        )
    ]


async def _set_policy(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    policy = msgspec.to_builtins(asked.body.policy)
    if asked.body.policy != "immediate":
        views.check_size(asked.body.policy)
    name, seen = asked.names["model"], None
    if asked.expected and "*" not in asked.expected:
        seen = await registry.model(name)
        if tag_of(msgspec.json.encode(seen)) not in asked.expected:
            raise Outdated(
                f"the model '{name}' has changed since it was read",
                field="if-match",
                fix="Read it again, and send the etag of that GET.",
            )
    await registry.set_policy(name, policy, actor(asked.caller), asked.body.reason, expected=seen)
    return Answer(await registry.model(name))


async def _start(ledger: Ledger, asked: ApiRequest) -> Answer:
    said: views.NewRelease = asked.body
    if said.policy is not None:
        views.check_size(said.policy)
    proposal = Proposal(said.model, said.version, said.stable, said.alias, said.policy)
    return Answer(views.shown(await ledger.propose(proposal, actor(asked.caller), said.reason)))


async def _list(ledger: Ledger, asked: ApiRequest) -> Answer:
    query = asked.query
    if query.after:
        try:
            await ledger.releases.get(query.after)
        except NotFound as error:
            raise InvalidInput(
                error.message, field="query.after", fix="Read it from the beginning."
            ) from error
    found = await ledger.releases.listed(
        query.model, state=query.state, is_live=query.is_live, after=query.after, most=query.limit + 1
    )
    part = found[: query.limit]
    return Answer(Page([views.shown(one) for one in part], part[-1].id if len(found) > len(part) else ""))


async def _tell(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    told = await ledger.releases.witnesses([release.id])
    servers = counted_by(told[release.id], ledger.wall(), release.bucket_seconds)
    look = await last_look(ledger.releases, release)
    return Answer(views.ReleaseDetail(views.shown(release), release.policy, look, servers))


async def _explain(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    look = await last_look(ledger.releases, release)
    if look is None:
        return Answer(Explained(release.waits_for or release.reason))
    found = await ledger.releases.carriers(release)
    lines = [words for carrier in found for words in told(carrier, _moment)]
    return Answer(Explained("\n".join([explain(release.policy, look.verdict), *lines]), found))


async def _shadow(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    report = ledger.shadows.report(release.id)
    if report is None:
        raise NotFound(
            f"nothing is known here of copies for release '{release.id}'",
            fix="traffic.shadow in its policy sets what is copied; counts restart with the server.",
        )
    return Answer(report)


async def _tell_evidence(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    after, last = asked.query.after, release.progress.buckets - 1
    points = asked.query.points
    every = views.stride(last - after, points)
    looks = await ledger.releases.looks(release.id, after, every=every, last=max(last, 0))
    return Answer(evidence(release.policy, looks[-points:]))  # one may have arrived meanwhile


async def _wish(ledger: Ledger, what: What, asked: ApiRequest) -> Answer:
    name, wishes = asked.names["release"], ledger.releases
    wish = await wishes.wish(name, what, actor(asked.caller), asked.body.reason, ledger.wall())
    answer = None
    for _ in range(round(_WAIT_SECONDS / _LOOK_SECONDS)):
        if (answer := await wishes.answer(wish)) is not None:
            break
        await ledger.sleep(_LOOK_SECONDS)
    if answer:
        raise Conflict(answer)
    return Answer(views.Wished(wish, answer is not None, views.shown(await ledger.releases.get(name))))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


async def last_look(releases: ReleaseStore, release: Release) -> LastLook | None:
    """Return the last look; None = there was none."""
    looks = await releases.looks(release.id, release.progress.buckets - 2)
    if not looks:
        return None
    last = looks[-1]
    return LastLook(last.seq, last.entry.bucket, last.entry.verdict)
