"""Keys of a ledger, as two servers of it ask for them."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import own_server
from splitting_server import ledgered
from waiting import PATIENCE_S, auntil
from zoo import write_mlp

from salver.app import Server
from salver.cli import main
from salver.configuration import ServeConfig
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, read, written
from salver.features.ledger.ledger import Ledger
from salver.features.registry.audit import history
from salver.features.registry.command_options import new_id, now
from salver.features.registry.records import Actor
from salver.features.registry.tokens import Tokens
from salver.transport.access_check import ApiConfig
from salver.transport.server import FrontConfig

TOKEN = "an-example-token-of-a-test"
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}


class Served:
    """A server, and a client of it."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self._client = client
        self.url = f"http://127.0.0.1:{server.listeners.ports()[0]}"

    async def ask(self, verb: str, path: str, key: str = "", body: object = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self._client.request(verb, self.url + path, json=body, headers=headers)

    async def infer(self, key: str = "") -> int:
        return (await self.ask("POST", "/v2/models/mlp/infer", key, ROW)).status_code

    async def api(self, verb: str, path: str, key: str = "", body: object = None) -> Any:
        reply = await self.ask(verb, f"/api/v1{path}", key, body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def accepts(self, key: str) -> bool:
        return await self.infer(key) == 200

    async def refuses(self, key: str) -> bool:
        return await self.infer(key) == 401


@asynccontextmanager
async def serving(
    folder: Path, ledger: str, *, token: str = "", host: str = "127.0.0.1", **tables: Any
) -> AsyncIterator[Served]:
    registry = {"ledger": ledger, "artifacts": str(folder / "artifacts")} if ledger else {}
    if not (folder / "models").exists():
        write_mlp(folder / "models" / "mlp", 1)
    api = ApiConfig()
    if token:
        (folder / "token").write_text(token)
        api = ApiConfig(str(folder / "token"))
    config = ServeConfig(
        paths=(str(folder / "models"),),
        front=FrontConfig(host, 0, grace_seconds=5),
        api=api,
        tables={"registry": registry, **tables},
    )
    async with Server(config) as server, httpx.AsyncClient(timeout=PATIENCE_S) as client:
        yield Served(server, client)


async def test_a_change_on_one_server_holds_on_both(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(serving(tmp_path, url, token=TOKEN)) for _ in range(2)]
        for each in (one, two):
            assert await each.infer() == 200, "there is no key yet"
        # Who holds the management token makes the first key.
        wish = {"name": "ops", "scopes": ["access", "infer"]}
        assert (await one.ask("POST", "/api/v1/keys", body=wish)).status_code == 401
        made = await one.api("POST", "/keys", TOKEN, wish)
        ops = made["secret"]
        assert made["is_first"] and made["key"]["by"] == "api" and "hash" not in str(made["key"])
        assert await one.infer() == 401 and await one.infer(ops) == 200, "it holds here at once"
        await auntil(lambda: two.refuses(""))
        assert await two.infer(ops) == 200

        web = await two.api("POST", "/keys", ops, {"name": "web", "limits": {"requests": "1/h+2"}})
        key, id = web["secret"], web["key"]["id"]
        assert not web["is_first"]
        assert [await two.infer(key) for _ in range(3)] == [200, 200, 429]
        await auntil(lambda: one.accepts(key))
        await one.api("PUT", f"/keys/{id}/limits", ops, {"limits": None, "reason": "it is patient"})
        await auntil(lambda: two.accepts(key))

        new = (await one.api("POST", "/keys/web/rotate", ops, {"overlap": "1h"}))["secret"]
        await auntil(lambda: two.accepts(new))
        assert await two.infer(key) == 200, "both are valid for a while"
        assert (await two.api("DELETE", "/keys/web", ops, {}))["state"] == "revoked"
        assert await two.infer(new) == 401
        await auntil(lambda: one.refuses(new))
        assert await one.infer(key) == 401

        page = await one.api("GET", "/keys?limit=1", ops)
        rest = await one.api("GET", f"/keys?limit=1&after={page['next']}", ops)
        listed = {each["name"]: each for each in (*page["items"], *rest["items"])}
        assert set(listed) == {"ops", "web"} and rest["next"] == "" and listed["ops"]["last_use"] > 0
        assert (await two.ask("GET", "/api/v1/keys", key)).status_code == 401
    async with await Ledger.open(url) as ledger:
        lines = [(line.action, line.actor, line.why) for line in reversed(await ledger.read(history))]
    assert lines == [
        ("key.made", "api", ""),
        ("key.made", "key:ops", ""),
        ("key.changed", "key:ops", "it is patient"),
        ("key.rotated", "key:ops", ""),
        ("key.revoked", "key:ops", ""),
    ]


async def test_an_edited_key_has_its_new_scopes_on_both(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(serving(tmp_path, url)) for _ in range(2)]
        ops = (await one.api("POST", "/keys", body={"name": "ops", "scopes": ["*"]}))["secret"]
        wish = {"name": "web", "scopes": ["read"], "note": "old"}
        web = (await one.api("POST", "/keys", ops, wish))["secret"]

        async def is_reader(served: Served) -> bool:
            return await served.infer(web) == 403

        for each in (one, two):
            await auntil(partial(is_reader, each))
        edit = {"scopes": ["infer:mlp"], "owner": "ann", "expires": "1h", "note": "", "reason": "moved"}
        edited = await two.api("PUT", "/keys/web", ops, edit)
        assert edited["owner"] == "ann" and "note" not in edited and edited["expires"] > edited["created"]
        assert await two.infer(web) == 200, "it holds here at once"
        await auntil(lambda: one.accepts(web))
    async with await Ledger.open(url) as ledger:
        (line, *_) = await ledger.read(history)
    assert (line.action, line.actor, line.why) == ("key.changed", "key:ops", "moved")
    assert line.before.startswith("read old slv_") and line.after.startswith("infer:mlp until 20")
    assert "Z ann slv_" in line.after


async def test_limits_of_a_model_hold_on_both(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(serving(tmp_path, url)) for _ in range(2)]
        ops = (await one.api("POST", "/keys", body={"name": "ops", "scopes": ["*"]}))["secret"]
        some = (await one.api("POST", "/keys", ops, {"name": "x", "scopes": ["access", "infer"]}))["secret"]
        wish = {"holder": "model", "name": "ml*", "limits": {"requests": "1/h+2"}, "reason": "it is slow"}
        refused = await one.ask("PUT", "/api/v1/limits", some, wish)
        assert refused.status_code == 403 and "hold for every key" in refused.text
        assert await one.api("PUT", "/limits", ops, wish) == {"models": {"ml*": {"requests": "1/h+2"}}}
        assert [await one.infer(some) for _ in range(3)] == [200, 200, 429]

        async def is_limited() -> bool:
            return await two.infer(some) == 429

        await auntil(is_limited)
        assert await two.api("GET", "/limits", some) == {"models": {"ml*": {"requests": "1/h+2"}}}
        assert await two.api("PUT", "/limits", ops, {**wish, "limits": None, "reason": ""}) == {}
        assert await two.infer(some) == 200
        await auntil(lambda: one.accepts(some))
        for wrong in ({"holder": "model"}, {"holder": "server", "name": "a"}, {"holder": "key", "name": "x"}):
            told = await one.ask("PUT", "/api/v1/limits", ops, {"limits": {"at_once": 1}, **wrong})
            assert told.status_code == 400, told.text
    async with await Ledger.open(url) as ledger:
        lines = [line for line in await ledger.read(history) if line.action == "limits.changed"]
    assert [(line.subject, line.before, line.after, line.why) for line in reversed(lines)] == [
        ("model ml*", "", '{"requests":"1/h+2"}', "it is slow"),
        ("model ml*", '{"requests":"1/h+2"}', "", ""),
    ]


async def test_a_connection_that_was_open_before_the_first_key_needs_one(tmp_path: Path, url: str) -> None:
    """Requests that are answered without a task are decided when their head is first seen."""
    async with serving(tmp_path, url) as served:
        for _ in range(5):
            assert await served.infer() == 200
        await served.api("POST", "/keys", body={"name": "first"})
        for _ in range(3):
            assert await served.infer() == 401


async def test_a_port_that_other_machines_reach_runs_models_once_there_is_a_key(
    tmp_path: Path, url: str
) -> None:
    async with serving(tmp_path, url, token=TOKEN, host="0.0.0.0") as served:
        for _ in range(3):
            refused = await served.ask("POST", "/v2/models/mlp/infer", body=ROW)
            assert refused.status_code == 403 and "Make a key" in refused.text
        assert (await served.ask("GET", "/v2/models/mlp")).status_code == 200
        key = (await served.api("POST", "/keys", TOKEN, {"name": "web"}))["secret"]
        for _ in range(3):
            assert await served.infer(key) == 200 and await served.infer() == 401
        assert (await served.ask("GET", "/v2/models/mlp")).status_code == 401


async def test_a_key_gives_nothing_that_it_does_not_have(tmp_path: Path, url: str) -> None:
    async with serving(tmp_path, url) as served:
        root = (await served.api("POST", "/keys", body={"name": "root", "scopes": ["*"]}))["secret"]
        ops = {"name": "ops", "scopes": ["access", "infer:m*"], "limits": {"at_once": 5}}
        key = (await served.api("POST", "/keys", root, ops))["secret"]
        for verb, path, body in (
            ("POST", "/keys", {"name": "x", "scopes": ["*"]}),
            ("POST", "/keys", {"name": "x", "scopes": ["infer"]}),
            ("POST", "/keys/root/rotate", {}),
            ("DELETE", "/keys/root", {}),
            ("PUT", "/keys/root/limits", {"limits": {"at_once": 1}}),
            ("PUT", "/keys/ops/limits", {"limits": None}),
            ("PUT", "/keys/root", {"note": "mine"}),
            ("PUT", "/keys/ops", {"expires": "never"}),
        ):
            reply = await served.ask(verb, f"/api/v1{path}", key, body)
            assert reply.status_code == 403, (path, reply.text)
        await served.api("POST", "/keys", key, {"name": "x", "scopes": ["infer:mlp"]})
        assert (await served.ask("PUT", "/api/v1/keys/x", key, {"scopes": ["infer"]})).status_code == 403
        await served.api("PUT", "/keys/x", key, {"scopes": ["infer:m*"]})
        reader = (await served.api("POST", "/keys", root, {"name": "r", "scopes": ["read"]}))["secret"]
        assert (await served.ask("GET", "/api/v1/keys", reader)).status_code == 403


async def test_a_token_of_the_registry_makes_keys_if_it_is_an_admins(tmp_path: Path, url: str) -> None:
    async with serving(tmp_path, url) as served:
        await served.api("POST", "/keys", body={"name": "first"})
        tokens = Tokens(ledgered(served.server).registry.ledger, now, new_id, os.urandom)
        _, admin = await tokens.make("root", ["admin"], Actor("ann"))
        _, releaser = await tokens.make("bob", ["releaser"], Actor("root", frozenset({"admin"})))
        refused = await served.ask("POST", "/api/v1/keys", releaser, {"name": "x"})
        assert refused.status_code == 403 and "role admin" in refused.json()["fix"]
        await served.api("POST", "/keys", admin, {"name": "x"})


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_wrong_requests(tmp_path: Path, url: str) -> None:
    wrong: list[dict[str, object]] = [
        {},
        {"name": ""},
        {"name": "a" * 129},
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["drive"]},
        {"name": "a", "expires": "soon"},
        {"name": "a", "limits": {"requests": "many"}},
        {"name": "a", "moons": 3},
        {"name": "a", "tenant": "a\nb"},
        {"name": "a", "note": "\0"},
    ]
    async with serving(tmp_path, url) as served:
        for body in wrong:
            reply = await served.ask("POST", "/api/v1/keys", body=body)
            assert reply.status_code == 400, body
            assert reply.headers["content-type"] == "application/problem+json"
        assert (await served.ask("GET", "/api/v1/keys/none")).status_code == 404
        assert (await served.ask("GET", "/api/v1/keys?limit=1001")).status_code == 400
        assert (await served.api("GET", "/keys"))["items"] == []
        assert await served.infer() == 200


async def test_a_server_with_a_file_changes_the_keys_in_it(tmp_path: Path) -> None:
    own, file = new_key(), tmp_path / "keys.toml"
    file.write_text(written([KeyRecord("f1", "ops", hash_of(own), ("access", "infer"))]))
    async with serving(tmp_path, "", access={"keys_file": str(file)}) as served:
        made = await served.api("POST", "/keys", own, {"name": "web", "scopes": ["infer:mlp"]})
        assert await served.infer(made["secret"]) == 200, "it holds at once"
        assert made["secret"] not in file.read_text()
        assert [record.name for record in read(file)] == ["ops", "web"]
        await served.api("PUT", "/keys/web/limits", own, {"limits": {"requests": "1/h"}})
        assert [await served.infer(made["secret"]) for _ in range(2)] == [200, 429]
        new = (await served.api("POST", "/keys/web/rotate", own, {}))["secret"]
        assert await served.infer(new) == 429, "with the same budget"
        assert (await served.api("GET", "/keys/web", own))["last_use"] > 0
        await served.api("DELETE", "/keys/web", own, {})
        assert await served.infer(new) == 401
        assert (
            await served.ask("POST", "/api/v1/keys", own, {"name": "x", "scopes": ["*"]})
        ).status_code == 403


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_keys_of_a_file_and_of_the_ledger_are_both_valid(tmp_path: Path, url: str) -> None:
    own, file = new_key(), tmp_path / "keys.toml"
    file.write_text(written([KeyRecord("f1", "file", hash_of(own), ("*",))]))
    async with serving(tmp_path, url, access={"keys_file": str(file)}) as served:
        assert await served.infer() == 401 and await served.infer(own) == 200
        key = (await served.api("POST", "/keys", own, {"name": "ledger"}))["secret"]
        assert await served.infer(key) == 200 and await served.infer(own) == 200
        file.write_text(written([]))
        await auntil(lambda: served.refuses(own))
        assert await served.infer(key) == 200


async def test_the_use_of_a_key_outlives_the_server(tmp_path: Path, url: str) -> None:
    async with serving(tmp_path, url) as served:
        key = (await served.api("POST", "/keys", body={"name": "web", "scopes": ["*"]}))["secret"]
        assert await served.infer(key) == 200
        used = (await served.api("GET", "/keys/web", key))["last_use"]
    async with await Ledger.open(url) as ledger:
        kept = await ledger.read(lambda c: c.exec_driver_sql("SELECT last_use FROM access_key").scalar())
    assert kept is not None and kept >= used > 0


def test_the_first_key_is_made_on_the_machine(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "ops", "--scope", "*", "--ledger", url]) == 0
    said = capsys.readouterr()
    assert "the first key of this ledger" in said.err

    async def ask() -> None:
        async with serving(tmp_path, url) as served:
            assert await served.infer() == 401 and await served.infer(said.out.strip()) == 200

    asyncio.run(ask())


@pytest.fixture
def folder() -> Iterator[Path]:
    """That every user can reach."""
    found = Path(tempfile.mkdtemp(prefix="salver-keys-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


async def test_a_server_whose_postgresql_is_stopped_goes_on_and_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with own_server(folder) as postgres:
        async with serving(tmp_path, postgres.get_uri()) as served:
            key = (await served.api("POST", "/keys", body={"name": "ops", "scopes": ["*"]}))["secret"]
            postgres.stop()
            await auntil(lambda: "the keys stay as they are" in caplog.text)
            assert await served.infer(key) == 200 and await served.infer() == 401
            refused = await served.ask("POST", "/api/v1/keys", key, {"name": "web"})
            assert refused.status_code == 503
            postgres.start()
            web = await auntil(lambda: made(served, key))
            assert await served.infer(web) == 200


async def made(served: Served, key: str) -> str:
    reply = await served.ask("POST", "/api/v1/keys", key, {"name": "web"})
    return str(reply.json()["secret"]) if reply.status_code == 200 else ""
