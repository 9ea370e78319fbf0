"""The registry and its audit over HTTP: a real registry, no socket."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from asgi_calls import Reply, asked
from registries import ANN, Clock, counted, found, open_registry

from salver.features.management.door import Management
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.tokens import Tokens
from salver.features.registry.webhooks import Webhooks
from salver.features.releases.judge.policy import Policy
from salver.features.releases.ledger_api import LedgerApi, ReleaseStores
from salver.features.releases.release_store import ReleaseStore
from salver.transport.access_check import Access
from salver.transport.operations import Api
from salver.transport.pages import Sites

TOKEN = "registry-token"


class World:
    """A server with a registry, asked over HTTP from this machine."""

    def __init__(self, registry: ModelRegistry) -> None:
        nobody: Any = None
        clock, new_id = Clock(), counted("made").__next__
        self.registry = registry
        self.tokens = Tokens(registry.ledger, clock, new_id, lambda size: b"t" * size)
        webhooks = Webhooks(registry.ledger, clock, new_id, lambda size: b"w" * size)
        self._kept = LedgerApi(
            registry,
            webhooks,
            self.tokens,
            ReleaseStores(ReleaseStore(registry.ledger), nobody, nobody),
            new_id,
        )
        self._api = Api(self._kept.operations())
        self.host = "127.0.0.1"

    async def ask(self, verb: str, path: str, document: Any = None, **headers: str) -> Reply:
        access = Access(self.host, read_token=self._kept.caller)
        app = Management(_nobody, self._api, access, Sites(), lambda: "id", "1.0")
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        if verb != "GET":
            given.setdefault("content-type", "application/json")
        body = b"" if document is None else orjson.dumps(document)
        return await asked(app, verb, f"/api/v1{path}", body, given)


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope["path"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """``fraud`` with three versions, whose ``champion`` is the first; ``churn`` with one."""
    registry = await open_registry("sqlite", tmp_path / "registry")
    for number in itertools.count(1):
        if number == 4:
            break
        files = {"model.onnx": b"weights" * number}
        said = NewVersion(
            "fraud", tags={"team": "risk"}, metrics={"auc": 0.9 + number / 100}, why=f"try {number}"
        )
        await registry.push(said, found(tmp_path / f"f{number}", files), ANN)
    await registry.set_alias("fraud", "champion", 1, ANN)
    await registry.push(NewVersion("churn"), found(tmp_path / "c"), ANN)
    yield World(registry)
    await registry.ledger.close()


async def test_all_models_page_by_page(world: World) -> None:
    first = await world.ask("GET", "/models?limit=1")
    assert [model["name"] for model in first.json["items"]] == ["churn"]
    second = await world.ask("GET", f"/models?limit=1&after={first.json['next']}")
    assert [model["name"] for model in second.json["items"]] == ["fraud"]
    assert second.json["next"] == ""
    assert (await world.ask("GET", "/models?after=gone")).status == 400


async def test_a_model_and_its_versions(world: World) -> None:
    model = (await world.ask("GET", "/models/fraud")).json
    assert (model["latest"], model["versions"], model["aliases"]) == (3, 3, {"champion": 1})
    lines = (await world.ask("GET", "/models/fraud/versions")).json["items"]
    assert [line["number"] for line in lines] == [3, 2, 1]
    assert lines[2]["tags"] == {"team": "risk"}
    assert "champion" in lines[2]["aliases"]
    assert (await world.ask("GET", "/models/none")).status == 404


async def test_versions_page_by_page_though_others_remove_some(world: World) -> None:
    first = (await world.ask("GET", "/models/fraud/versions?limit=2")).json
    assert ([line["number"] for line in first["items"]], first["next"]) == ([3, 2], "2")
    assert (await world.ask("DELETE", "/models/fraud/versions/2", {})).status == 200
    second = (await world.ask("GET", "/models/fraud/versions?limit=1&after=2")).json
    assert ([line["number"] for line in second["items"]], second["next"]) == ([1], "")
    for odd in ("two", "-1", "9" * 30):
        refused = await world.ask("GET", f"/models/fraud/versions?after={odd}")
        assert (refused.status, refused.json["field"]) == (400, "query.after")
    assert (await world.ask("GET", "/models/none/versions?limit=1")).status == 404


@pytest.mark.parametrize(("name", "number"), [("2", 2), ("champion", 1), ("latest", 3)])
async def test_a_version_by_number_or_alias(world: World, name: str, number: int) -> None:
    version = (await world.ask("GET", f"/models/fraud/versions/{name}")).json
    assert version["number"] == number
    assert version["files"][0]["path"] == "model.onnx"


async def test_in_what_versions_differ(world: World) -> None:
    answer = (await world.ask("GET", "/models/fraud/diff?before=champion&after=3")).json
    assert (answer["before"], answer["after"]) == (1, 3)
    assert ("metrics", "auc") in {(item["part"], item["what"]) for item in answer["items"]}
    assert (await world.ask("GET", "/models/fraud/diff?before=1")).json["field"] == "query"


async def test_an_alias_moves_and_the_audit_tells_why(world: World) -> None:
    moved = await world.ask(
        "PUT", "/models/fraud/aliases/champion", {"version": 2, "reason": "better"}, x_salver_actor="ada"
    )
    assert (moved.status, moved.json["before"], moved.json["number"], moved.json["release"]) == (
        200,
        1,
        2,
        "",
    )
    line = (await world.ask("GET", "/audit?limit=1")).json["items"][0]
    assert (line["action"], line["actor"], line["why"]) == ("alias.moved", "api:ada", "better")


async def test_an_alias_moves_from_the_state_that_was_seen(world: World) -> None:
    path = "/models/fraud/aliases/champion"
    seen = (await world.ask("GET", path)).headers["etag"]
    assert (await world.ask("PUT", path, {"version": 2}, if_match=seen)).status == 200
    late = await world.ask("PUT", path, {"version": 3}, if_match=seen)
    assert (late.status, late.json["field"]) == (412, "if-match")
    assert "version 2" in late.json["detail"]
    assert (await world.ask("DELETE", path, {}, if_match=seen)).status == 412
    for nonsense in ('"shadow-2"', '"champion"', '"champion-x"', '"2"'):
        assert (await world.ask("PUT", path, {"version": 3}, if_match=nonsense)).json["field"] == "if-match"
    fresh = (await world.ask("GET", path)).headers["etag"]
    assert (await world.ask("DELETE", path, {"reason": "unused"}, if_match=fresh)).json == {"is_done": True}
    assert (await world.ask("GET", path)).status == 404


async def test_of_many_who_move_it_from_one_state_one_does(world: World) -> None:
    path = "/models/fraud/aliases/champion"
    seen = (await world.ask("GET", path)).headers["etag"]
    wishes = [world.ask("PUT", path, {"version": 2 + number % 2}, if_match=seen) for number in range(8)]
    statuses = sorted([reply.status for reply in await asyncio.gather(*wishes)])
    assert statuses == [200] + [412] * 7


async def test_with_a_policy_a_move_is_a_proposal(world: World) -> None:
    changed = await world.ask("PUT", "/models/fraud/policy", {"policy": {"alpha": 0.02}, "reason": "careful"})
    assert Policy(alpha=0.02) == Policy.from_json(orjson.dumps(changed.json["policy"]))
    moved = await world.ask("PUT", "/models/fraud/aliases/champion", {"version": 2})
    assert moved.json["release"]
    assert (await world.ask("GET", "/models/fraud")).json["aliases"] == {"champion": 1}
    again = await world.ask("PUT", "/models/fraud/aliases/champion", {"version": 3})
    assert again.status == 409
    assert (await world.ask("PUT", "/models/fraud/policy", {"policy": "immediate"})).json[
        "policy"
    ] == "immediate"


@pytest.mark.parametrize(
    "policy",
    ["at once", {"alpha": 2}, {"stages": []}, {"alfa": 0.1}],
    ids=["word", "range", "empty", "unknown"],
)
async def test_a_policy_that_is_none_is_refused(world: World, policy: Any) -> None:
    assert (await world.ask("PUT", "/models/fraud/policy", {"policy": policy})).status == 400


async def test_a_protected_alias_wants_a_token_of_its_role(world: World) -> None:
    token, text = await world.tokens.make("ada", ["releaser"], ANN)
    protected = await world.ask("PUT", "/models/fraud/aliases/champion/protection", {"roles": ["releaser"]})
    assert protected.json["protected"] == ["releaser"]
    path, wish = "/models/fraud/aliases/champion", {"version": 2}
    refused = await world.ask("PUT", path, wish)
    assert (refused.status, refused.json["field"]) == (403, "alias")
    assert (await world.ask("PUT", path, wish, authorization="Bearer wrong")).status == 401
    assert (await world.ask("PUT", path, wish, authorization=f"Bearer {text}")).status == 200
    line = (await world.ask("GET", "/audit?action=alias.moved&limit=1")).json["items"][0]
    assert line["actor"] == token.name == "ada"


async def test_where_other_machines_come_a_token_of_the_registry_opens(world: World) -> None:
    world.host = "0.0.0.0"
    path, wish = "/models/fraud/default", {"alias": "champion"}
    assert (await world.ask("PUT", path, wish)).status == 401
    _, text = await world.tokens.make("ada", [], ANN)
    assert (await world.ask("PUT", path, wish, authorization=f"Bearer {text}")).json[
        "default_alias"
    ] == "champion"


async def test_what_is_said_of_a_version(world: World) -> None:
    path = "/models/fraud/versions/2"
    tagged = await world.ask("PUT", f"{path}/tags/data%2Fset", {"value": "november"})
    assert tagged.json["tags"] == {"team": "risk", "data/set": "november"}
    assert "team" not in (await world.ask("DELETE", f"{path}/tags/team", {})).json["tags"]
    measured = await world.ask("PUT", f"{path}/metrics", {"metrics": {"brier": 0.11}})
    assert measured.json["metrics"]["brier"] == 0.11
    assert (await world.ask("PUT", f"{path}/metrics", {"metrics": {"brier": "low"}})).status == 400


async def test_a_version_goes_unless_something_means_it(world: World) -> None:
    assert (await world.ask("DELETE", "/models/fraud/versions/1", {})).status == 409
    assert (await world.ask("DELETE", "/models/fraud/versions/2", {"reason": "stale"})).status == 200
    assert [line["number"] for line in (await world.ask("GET", "/models/fraud/versions")).json["items"]] == [
        3,
        1,
    ]


async def test_the_audit_by_model_action_and_actor(world: World) -> None:
    await world.ask("PUT", "/models/churn/aliases/champion", {"version": 1}, x_salver_actor="eve")

    async def found_by(query: str) -> list[tuple[str, str]]:
        items = (await world.ask("GET", f"/audit?{query}")).json["items"]
        return [(item["model"], item["action"]) for item in items]

    assert await found_by("actor=api:eve") == [("churn", "alias.moved")]
    assert await found_by("model=churn") == [("churn", "alias.moved"), ("churn", "version.pushed")]
    assert await found_by("action=alias.moved") == [("churn", "alias.moved"), ("fraud", "alias.moved")]
    assert (await world.ask("GET", "/audit?actor=eve&who=1")).status == 400
    assert (await world.ask("GET", f"/audit?before={2**64}")).status == 400


async def test_the_audit_page_by_page(world: World) -> None:
    numbers, before = [], 0
    for _ in range(10):
        page = (await world.ask("GET", f"/audit?limit=2&before={before}")).json
        numbers += [item["seq"] for item in page["items"]]
        before = page["next"]
        if not before:
            break
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == len(set(numbers)) == 5


async def test_who_is_told_of_changes(world: World) -> None:
    made = await world.ask(
        "POST", "/webhooks", {"url": "https://hooks.example.org/x", "events": ["alias.moved"]}
    )
    assert made.json["secret"]
    listed = (await world.ask("GET", "/webhooks")).json["items"]
    assert [hook["url"] for hook in listed] == ["https://hooks.example.org/…"]
    assert "secret" not in listed[0]
    assert (await world.ask("POST", "/webhooks", {"url": "ftp://x"})).status == 400
    id = made.json["webhook"]["id"]
    assert (await world.ask("DELETE", f"/webhooks/{id}", {"reason": "moved away"})).status == 200
    assert (await world.ask("GET", "/webhooks")).json["items"] == []


async def test_what_they_were_told_and_what_failed_is_told_anew(world: World) -> None:
    await world.ask("POST", "/webhooks", {"url": "https://hooks.example.org/x"})
    for number in (2, 3):
        await world.ask("PUT", "/models/fraud/aliases/champion", {"version": number})

    async def away(url: str, headers: Mapping[str, str], body: bytes) -> int:
        raise OSError("nobody answers")

    await Deliverer(world.registry.ledger, away, lambda: 2e9).once()
    failing = (await world.ask("GET", "/deliveries?state=failing")).json["items"]
    assert [(one["attempts"], one["error"]) for one in failing] == [(1, "nobody answers")]
    again = await world.ask("POST", f"/deliveries/{failing[0]['id']}/again", {})
    assert (again.status, again.json["state"], again.json["error"]) == (200, "waiting", "")
    assert (await world.ask("GET", "/deliveries?state=failing")).json == {"items": [], "next": 0}
    first = (await world.ask("GET", "/deliveries?limit=1")).json
    rest = (await world.ask("GET", f"/deliveries?before={first['next']}")).json
    assert first["items"][0]["id"] == first["next"] > rest["items"][0]["id"]
    assert rest["next"] == 0
    for id in ("0", "x", "9" * 30, "-1"):
        missing = await world.ask("POST", f"/deliveries/{id}/again", {})
        assert missing.status == 404, id


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:sesame@hooks.example.org:8443/", "https://hooks.example.org:8443/"),
        ("https://hooks.example.org/services/T0/B0/sesame", "https://hooks.example.org/…"),
        ("https://hooks.example.org?token=sesame", "https://hooks.example.org/…"),
    ],
)
async def test_whoever_looks_learns_no_password_of_a_receiver(world: World, url: str, shown: str) -> None:
    await world.ask("POST", "/webhooks", {"url": url})
    reply = await world.ask("GET", "/webhooks")
    assert [hook["url"] for hook in reply.json["items"]] == [shown]
    assert b"sesame" not in reply.body


async def test_a_policy_is_changed_from_the_state_that_was_seen(world: World) -> None:
    seen = (await world.ask("GET", "/models/fraud")).headers["etag"]
    mine, other = {"policy": {"alpha": 0.02}}, {"policy": {"alpha": 0.03}}
    assert (await world.ask("PUT", "/models/fraud/policy", other, if_match=seen)).status == 200
    late = await world.ask("PUT", "/models/fraud/policy", mine, if_match=seen)
    assert (late.status, late.json["field"]) == (412, "if-match")
    fresh = (await world.ask("GET", "/models/fraud")).headers["etag"]
    for condition in (fresh, "*"):
        assert (await world.ask("PUT", "/models/fraud/policy", mine, if_match=condition)).status == 200


async def test_a_policy_that_would_keep_the_server_busy_is_refused(world: World) -> None:
    metric = {"kind": "errors", "severity": "severe"}
    many = {"metrics": [{"name": f"m{number}", **metric} for number in range(101)]}
    steps = {"stages": [{"weight": (number + 1) / 200, "minutes": 1} for number in range(101)]}
    for policy in (many, steps):
        for verb, path, document in (
            ("POST", "/plan", {"traffic": {"requests_per_second": 10}, "policy": policy}),
            ("PUT", "/models/fraud/policy", {"policy": policy}),
            ("POST", "/releases", {"model": "fraud", "version": "2", "policy": policy}),
        ):
            refused = await world.ask(verb, path, document)
            assert (refused.status, refused.json["field"]) == (400, "body.policy"), path


@pytest.mark.parametrize(
    ("verb", "path", "document"),
    [
        ("GET", "/models/a%00b", None),
        ("GET", "/releases/%00/evidence", None),
        ("GET", "/models/%00/versions/2/verdict", None),
        ("GET", "/audit?model=%00", None),
        ("GET", "/releases?model=%00", None),
        ("GET", "/deliveries?webhook=%00", None),
        ("POST", "/releases", {"model": "\0", "version": "2"}),
        ("POST", "/releases", {"model": "fraud", "version": "2", "reason": "\0"}),
        ("POST", "/releases/x/pause", {"reason": "\0"}),
        ("POST", "/webhooks", {"url": "http://127.0.0.1:9/", "reason": "\0"}),
        (
            "PUT",
            "/models/fraud/policy",
            {"policy": {"metrics": [{"name": "\0", "kind": "errors", "severity": "soft"}]}},
        ),
    ],
)
async def test_a_letter_that_no_database_keeps_is_the_callers_mistake(
    world: World, verb: str, path: str, document: Any
) -> None:
    """On PostgreSQL it would be the ledger's failure, 503, after which programs try again."""
    refused = await world.ask(verb, path, document)
    assert (refused.status, bool(refused.json["field"])) == (400, True)


async def test_what_a_policy_would_see(world: World) -> None:
    plan = await world.ask(
        "POST", "/plan", {"traffic": {"requests_per_second": 40, "rates": {"errors": 0.004}}}
    )
    assert plan.status == 200
    errors = plan.json["metrics"][0]
    assert (errors["name"], errors["rate"]) == ("errors", 0.004)
    minutes = [found["minutes"] for found in errors["stages"][1]["detects"]]
    assert minutes == sorted(minutes, reverse=True)
    assert len(plan.json["minutes"]) == len(plan.json["policy"]["stages"])
    slow = await world.ask("POST", "/plan", {"traffic": {"requests_per_second": 0.01}})
    assert slow.json["advice"]
    assert (await world.ask("POST", "/plan", {"traffic": {"requests_per_second": 0}})).status == 400


def test_a_server_without_a_registry_loads_no_database() -> None:
    import subprocess
    import sys

    code = "import salver.app, sys; print([n for n in ('sqlalchemy', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
