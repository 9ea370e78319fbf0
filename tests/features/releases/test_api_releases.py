"""Releases over HTTP: a real ledger, a real judge, no socket."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from asgi_calls import Reply, asked
from console_world import OVER, PATIENT, RUNNING, judge_it, push
from hypothesis import given
from hypothesis import strategies as st
from registries import counted, open_registry

from salver.features.management.door import Management
from salver.features.registry.records import Actor
from salver.features.registry.registry import ModelRegistry
from salver.features.releases.experiments.shadows import Example, ShadowReport
from salver.features.releases.judge import procedure
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.verdict import Decision, MetricVerdict, Verdict
from salver.features.releases.ledger_api import LedgerApi, ReleaseStores
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.release_operations import Ledger, release_operations
from salver.features.releases.release_rows import Step
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.release_views import Hook, judged, says_yes, stride
from salver.transport.access_check import Access
from salver.transport.operations import Api
from salver.transport.pages import Sites
from salver.words.errors import Conflict
from salver.words.releases import Counts, ReleaseState

NOW = 1_800_000_000.0


class World:
    """A server whose ledger holds a release under way and one that was rolled back."""

    def __init__(self, registry: ModelRegistry) -> None:
        nobody: Any = None
        self.store = ReleaseStore(registry.ledger)
        self.registry = registry
        self.is_up = True
        self.shadows: dict[str, ShadowReport] = {}
        outcomes = OutcomeStore(registry.ledger, lambda: NOW)
        stores = ReleaseStores(self.store, outcomes, self)
        kept = LedgerApi(registry, nobody, nobody, stores, counted("new-").__next__)
        mine = release_operations(Ledger(self.store, kept.propose, self, lambda: NOW, self.tick))
        others = [one for one in kept.operations() if one.name not in {o.name for o in mine}]
        self._api = Api([*mine, *others])

    def report(self, release: str) -> ShadowReport | None:
        return self.shadows.get(release)

    async def tick(self, seconds: float) -> None:
        """A server sees to what is wished, unless it is down."""
        waiting = (await self.store.picture()).waiting.values() if self.is_up else ()
        for wish in [wish for each in waiting for wish in each.wishes]:
            release = await self.store.get(wish.release)
            after, answer = release, ""
            try:
                after = procedure.wished(release, wish, NOW)
            except Conflict as error:
                answer = str(error)
            await self.store.commit(Step(release, after, answers=((wish.id, answer),)), NOW)

    async def ask(self, verb: str, path: str, document: Any = None) -> Reply:
        app = Management(_nobody, self._api, Access(""), Sites(), lambda: "id", "1.0")
        body = b"" if document is None else orjson.dumps(document)
        headers = {"content-type": "application/json", "x-salver-actor": "ada"}
        return await asked(app, verb, f"/api/v1{path}", body, headers)


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope["path"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = await open_registry("sqlite", tmp_path / "registry")
    world = World(registry)
    for model in ("fraud", "churn", "ranker"):
        await push(registry, tmp_path / "sources", model)
    running = proposed(RUNNING, "fraud", ("1", "2"), PATIENT, NOW - 500, alias="champion")
    over = proposed(OVER, "churn", ("1", "2"), PATIENT, NOW - 4000, alias="champion")
    await judge_it(world.store, running, {}, 40)
    await judge_it(world.store, over, {"errors": 6.0}, 90)
    yield world
    await registry.ledger.close()


async def test_the_newest_first_by_model_and_state(world: World) -> None:
    whole = (await world.ask("GET", "/releases")).json
    assert [one["id"] for one in whole["items"]] == [RUNNING, OVER]
    fraud = whole["items"][0]
    assert (fraud["stable"], fraud["canary"], fraud["stages"], fraud["by"]) == ("1", "2", 3, "ann")
    for query, ids in (
        ("model=churn", [OVER]),
        ("state=RUNNING", [RUNNING]),
        ("state=PAUSED", []),
        ("is_live=true", [RUNNING]),
        ("is_live=false", [OVER]),
    ):
        found = (await world.ask("GET", f"/releases?{query}")).json["items"]
        assert [one["id"] for one in found] == ids
    assert (await world.ask("GET", "/releases?state=running")).status == 400
    first = (await world.ask("GET", "/releases?limit=1")).json
    assert [
        one["id"] for one in (await world.ask("GET", f"/releases?after={first['next']}")).json["items"]
    ] == [OVER]


async def test_one_with_its_policy_and_the_last_look(world: World) -> None:
    told = (await world.ask("GET", f"/releases/{OVER}")).json
    assert told["release"]["state"] == "ROLLED_BACK"
    assert told["look"]["verdict"]["decision"] == "rollback"
    assert (
        told["look"]["verdict"]["metrics"][0]["log_e"] >= told["look"]["verdict"]["metrics"][0]["threshold"]
    )
    assert told["policy"]["metrics"][0]["name"] == "errors"
    assert (await world.ask("GET", "/releases/none")).status == 404


async def test_one_tells_which_servers_count_it_and_who_has_fallen_silent(world: World) -> None:
    await world.store.attend(RUNNING, "one", NOW - 1)
    await world.store.attend(RUNNING, "two", NOW - 40)
    await world.store.attend(RUNNING, "gone", NOW)
    await world.store.leave("gone")
    assert (await world.ask("GET", f"/releases/{RUNNING}")).json["servers"] == [
        {"server": "one", "silent_seconds": 1.0, "is_heard": True, "ahead_seconds": 0.0},
        {"server": "two", "silent_seconds": 40.0, "is_heard": False, "ahead_seconds": 0.0},
    ]
    assert (await world.ask("GET", f"/releases/{OVER}")).json["servers"] == []


async def test_how_copies_of_its_requests_compare(world: World) -> None:
    none = await world.ask("GET", f"/releases/{RUNNING}/shadow")
    assert none.status == 404 and "traffic.shadow" in str(none.json)
    worst = Example(0.5, "order-7", "price: 1.0 and 1.5")
    world.shadows[RUNNING] = ShadowReport(10, 9, 1, {}, 2, {}, {}, (worst,), (0.01, 0.02), 0.0)
    told = (await world.ask("GET", f"/releases/{RUNNING}/shadow")).json
    assert (told["asked"], told["agreed"], told["differed"], told["dropped"]) == (10, 9, 1, 2)
    assert told["examples"][0]["request_id"] == "order-7"


async def test_why_it_stands_as_it_does(world: World) -> None:
    told = (await world.ask("GET", f"/releases/{OVER}/explain")).json["text"]
    assert "errors: the canary has" in told
    await world.ask("POST", "/releases", {"model": "ranker", "version": "2"})
    assert "no server" in (await world.ask("GET", "/releases/new-1/explain")).json["text"]


async def test_releases_are_read_in_parts_however_many_there_are(world: World) -> None:
    for number in range(5):
        old = proposed(
            f"old-{number}", "ranker", ("1", "3"), PATIENT, 1000.0 + number // 2, alias=f"a{number}"
        )
        await world.store.propose(old, Actor("ann"))
    other = proposed("old-5", "other", ("1", "3"), PATIENT, 1002.0, alias="a5")
    await world.store.propose(other, Actor("ann"))
    whole = [one["id"] for one in (await world.ask("GET", "/releases")).json["items"]]
    assert whole[-6:] == ["old-4", "old-5", "old-3", "old-2", "old-1", "old-0"]  # alike in time: by their ids
    read, after = [], ""
    for _ in whole:
        part = (await world.ask("GET", f"/releases?limit=2&after={after}")).json
        read += [one["id"] for one in part["items"]]
        if not (after := part["next"]):
            break
    assert read == whole
    waiting = (await world.ask("GET", "/releases?state=PROPOSED&model=ranker&limit=3")).json
    assert [one["id"] for one in waiting["items"]] == ["old-4", "old-3", "old-2"] and waiting["next"]
    assert (await world.ask("GET", "/releases?after=none")).json["field"] == "query.after"
    newest = await world.ask("GET", "/models/ranker/versions/3/verdict")
    assert (newest.status, newest.json["state"]) == (200, "PROPOSED")


async def test_its_evidence_over_time(world: World) -> None:
    whole = (await world.ask("GET", f"/releases/{RUNNING}/evidence")).json
    numbers = [point["seq"] for point in whole["items"]]
    assert numbers == list(range(len(numbers)))
    assert [line["name"] for line in whole["metrics"]] == ["errors", "slow"]
    assert {len(point["lines"]) for point in whole["items"]} == {2}
    few = (await world.ask("GET", f"/releases/{RUNNING}/evidence?points=3")).json["items"]
    assert len(few) == 3
    assert few[-1] == whole["items"][-1]
    rest = (await world.ask("GET", f"/releases/{RUNNING}/evidence?after={numbers[-3]}")).json["items"]
    assert [point["seq"] for point in rest] == numbers[-2:]
    for points in (1, 7, 39, 40):
        path = f"/releases/{RUNNING}/evidence?points={points}"
        taken = [one["seq"] for one in (await world.ask("GET", path)).json["items"]]
        assert len(taken) <= points and taken[-1] == numbers[-1]
        assert len({after - before for before, after in itertools.pairwise(taken)}) <= 1
    assert (await world.ask("GET", f"/releases/{RUNNING}/evidence?points=0")).status == 400


async def test_a_new_one_is_as_the_registry_has_it(world: World) -> None:
    wish = {"model": "ranker", "version": "2", "reason": "calibrated"}
    made = await world.ask("POST", "/releases", wish)
    assert made.status == 201
    assert {key: made.json[key] for key in ("id", "stable", "canary", "alias", "state", "by", "why")} == {
        "id": "new-1",
        "stable": "1",
        "canary": "2",
        "alias": "champion",
        "state": "PROPOSED",
        "by": "api:ada",
        "why": "calibrated",
    }
    assert (await world.ask("POST", "/releases", wish)).status == 409
    assert (await world.ask("POST", "/releases", {"model": "ranker", "version": "9"})).status == 404
    for version in ("01", "champion"):  # 01 is 1, which cannot take its own place
        refused = await world.ask("POST", "/releases", {"model": "ranker", "version": version})
        assert (refused.status, "is no version of 'ranker'" in refused.json["detail"]) == (400, True)
    assert (await world.ask("POST", "/releases", {"model": "ranker"})).json["field"] == "body"


async def test_wishes_are_seen_to(world: World) -> None:
    for what, state in (
        ("pause", "PAUSED"),
        ("resume", "RUNNING"),
        ("promote", "RUNNING"),
        ("abort", "ROLLED_BACK"),
    ):
        done = await world.ask("POST", f"/releases/{RUNNING}/{what}", {"reason": f"to {what}"})
        assert (done.json["is_done"], done.json["release"]["state"]) == (True, state)
    assert (await world.store.get(RUNNING)).reason == "requested by api:ada: to abort"


async def test_a_wish_that_cannot_be_says_why(world: World) -> None:
    late = await world.ask("POST", f"/releases/{OVER}/promote", {"reason": "please"})
    assert late.status == 409
    assert "final" in late.json["detail"]
    assert (await world.ask("POST", "/releases/none/pause", {"reason": "x"})).status == 404
    assert (await world.ask("POST", f"/releases/{RUNNING}/pause", {"reason": "x" * 1001})).status == 400


async def test_a_wish_waits_for_a_server_that_is_down(world: World) -> None:
    world.is_up = False
    asked_for = await world.ask("POST", f"/releases/{RUNNING}/pause", {"reason": "night"})
    assert (asked_for.json["is_done"], asked_for.json["release"]["state"]) == (False, "RUNNING")
    world.is_up = True
    await world.tick(1.0)
    assert (await world.ask("GET", f"/releases/{RUNNING}")).json["release"]["state"] == "PAUSED"


async def test_what_became_of_requests_is_taken_once(world: World) -> None:
    bought = {"id": "o1", "name": "bought", "request": "r1", "value": 1}
    wrong = {"id": "o2", "name": "bought", "unit": "ann", "request": "r2", "value": 1}
    told = await world.ask("POST", "/outcomes", {"outcomes": [bought, wrong]})
    assert (told.status, told.json["accepted"], told.json["unmatched"]) == (200, 1, ["o1"])
    assert [one["id"] for one in told.json["refused"]] == ["o2"]
    assert (await world.ask("POST", "/outcomes", {"outcomes": [bought]})).json["duplicates"] == 1
    for outcomes in ([], [bought] * 5001, [{"id": "o3", "nam": "bought"}], [{**bought, "value": "high"}]):
        assert (await world.ask("POST", "/outcomes", {"outcomes": outcomes})).status == 400


async def test_argo_reads_a_verdict(world: World) -> None:
    running = (await world.ask("GET", f"/releases/{RUNNING}/verdict")).json
    over = (await world.ask("GET", f"/releases/{OVER}/verdict")).json
    assert (running["verdict"], over["verdict"]) == ("inconclusive", "fail")
    assert over["p"] < PATIENT.alpha < running["p"]
    assert over["n"] > 0
    assert (running["stage"], running["stages"]) == (0, len(PATIENT.stages))
    by_version = (await world.ask("GET", "/models/fraud/versions/2/verdict")).json
    assert by_version == running
    missing = await world.ask("GET", "/models/fraud/versions/3/verdict")
    assert (missing.status, missing.json["field"]) == (404, "version")
    assert "salver rollout start fraud 3" in missing.json["fix"]


async def test_flagger_reads_a_status(world: World) -> None:
    sent = {"name": "fraud", "namespace": "test", "phase": "Progressing", "metadata": {"any": "thing"}}
    for hook, release, status in (
        ("rollout", RUNNING, 200),
        ("rollout", OVER, 409),
        ("confirm-rollout", RUNNING, 200),
        ("confirm-promotion", RUNNING, 409),
        ("rollback", RUNNING, 409),
        ("rollback", OVER, 200),
        ("pre-rollout", RUNNING, 200),
        ("pre-rollout", OVER, 409),
        ("confirm-traffic-increase", RUNNING, 200),
        ("confirm-traffic-increase", OVER, 409),
        ("post-rollout", OVER, 200),
        ("event", RUNNING, 200),
    ):
        reply = await world.ask("POST", f"/releases/{release}/flagger?hook={hook}", sent)
        assert reply.status == status, (hook, release)
        model = release.partition("-")[0]
        again = await world.ask("POST", f"/models/{model}/versions/2/flagger?hook={hook}", sent)
        assert (again.status, again.body) == (reply.status, reply.body)
    assert (await world.ask("POST", f"/releases/{OVER}/flagger?hook=other", sent)).status == 400


def verdict(decision: Decision, next_stage: int | None = None, log_e: float = 0.0) -> Verdict:
    metric = MetricVerdict(
        name="errors",
        effect=None,
        low=None,
        high=None,
        log_e=log_e,
        log_harm=0.0,
        log_flip=0.0,
        threshold=4.6,
        log_gate=0.0,
        gate=3.0,
        dispersion=1.0,
        units=Counts(7, 7, 70),
        events=Counts(),
        missing="",
    )
    return Verdict(decision, NOW, 0, next_stage, (), None, None, log_e, 4.6, 0.0, (metric,))


def release(state: ReleaseState) -> Release:
    made = proposed("r", "m", ("1", "2"), PATIENT, NOW)
    return msgspec.structs.replace(made, state=state)


@pytest.mark.parametrize(
    ("state", "decision", "word"),
    [
        (ReleaseState.PROPOSED, None, "inconclusive"),
        (ReleaseState.RUNNING, None, "inconclusive"),
        (ReleaseState.RUNNING, Decision.CONTINUE, "inconclusive"),
        (ReleaseState.HELD, Decision.HOLD, "inconclusive"),
        (ReleaseState.RUNNING, Decision.PROMOTE, "pass"),
        (ReleaseState.PAUSED, Decision.PROMOTE, "inconclusive"),
        (ReleaseState.PROMOTED, Decision.CONTINUE, "pass"),
        (ReleaseState.ROLLED_BACK, Decision.PROMOTE, "fail"),
    ],
)
def test_no_data_is_neither_good_nor_bad(state: ReleaseState, decision: Decision | None, word: str) -> None:
    assert judged(release(state), decision and verdict(decision)).verdict == word


@given(st.floats(-50, 50))
def test_p_is_a_chance(log_e: float) -> None:
    told = judged(release(ReleaseState.RUNNING), verdict(Decision.CONTINUE, log_e=log_e))
    assert 0 < told.p <= 1
    assert told.n == 7


@pytest.mark.parametrize("hook", get_args(Hook))
@pytest.mark.parametrize("state", [ReleaseState.HELD, ReleaseState.PAUSED])
def test_what_is_not_known_is_no_reason_to_go_on_nor_back(hook: Hook, state: ReleaseState) -> None:
    goes_on = hook in ("pre-rollout", "rollout", "post-rollout", "event")
    for decision in (Decision.HOLD, Decision.PROMOTE):
        assert says_yes(hook, release(state), verdict(decision)) == goes_on


def test_traffic_is_not_raised_while_nobody_meets_the_canary() -> None:
    copying = msgspec.structs.replace(release(ReleaseState.RUNNING), weight=0.0)
    met = msgspec.structs.replace(copying, weight=0.01)
    assert [says_yes("confirm-traffic-increase", one, None) for one in (copying, met)] == [False, True]
    assert says_yes("confirm-rollout", copying, None)


def test_what_one_stage_has_shown_is_not_the_whole() -> None:
    running = release(ReleaseState.RUNNING)
    assert judged(running, verdict(Decision.PROMOTE, next_stage=1)).verdict == "inconclusive"
    assert judged(running, verdict(Decision.PROMOTE)).verdict == "pass"
    done = msgspec.structs.replace(release(ReleaseState.PROMOTED), stage=len(PATIENT.stages))
    assert (judged(done, None).stage, judged(done, None).verdict) == (len(PATIENT.stages), "pass")


def test_the_last_gate_of_a_release_that_runs_confirms_its_promotion() -> None:
    last = verdict(Decision.PROMOTE)
    assert says_yes("confirm-promotion", release(ReleaseState.RUNNING), last)
    assert not says_yes("confirm-promotion", release(ReleaseState.RUNNING), verdict(Decision.PROMOTE, 1))


@given(st.integers(0, 500), st.integers(1, 50))
def test_of_many_looks_few_are_taken_evenly_and_the_last_among_them(number: int, most: int) -> None:
    every = stride(number, most)
    kept = [look for look in range(number) if look % every == (number - 1) % every]
    assert len(kept) <= most
    assert kept[-1:] == list(range(number))[-1:]
    assert len(kept) * every >= number  # none between them could be told as well
