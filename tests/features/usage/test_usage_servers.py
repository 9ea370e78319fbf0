"""A quota of a key of the ledger, on two servers; what is left of it, from anywhere."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from databases import POSTGRESQL_MOSTLY, migrated_ledger
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.app import Server
from salver.cli import main
from salver.configuration import ServeConfig
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.access.limits import LimitRules
from salver.features.ledger.faults import LedgerFailed
from salver.features.usage.store import UsageStore
from salver.transport.server import FrontConfig

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
MOST = 60


@pytest.mark.parametrize("kind", POSTGRESQL_MOSTLY)
async def test_two_servers_of_a_ledger(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = migrated_ledger(kind, tmp_path)
    place = ["--registry", ledger]

    def salver(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    key = await asyncio.to_thread(salver, "keys", "create", "web", *place, "--quota", f"{MOST}/day")
    ops = await asyncio.to_thread(salver, "keys", "create", "ops", *place, "--scope", "*")
    write_mlp(tmp_path / "models" / "mlp", 1)
    config = ServeConfig(
        paths=(str(tmp_path / "models"),),
        front=FrontConfig("127.0.0.1", 0, grace_seconds=5),
        tables={
            "registry": {"ledger": ledger, "artifacts": str(tmp_path / "artifacts")},
            "usage": {"folder": str(tmp_path / "use")},
        },
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_S))
        servers = [await stack.enter_async_context(Server(config)) for _ in range(2)]
        urls = [f"http://127.0.0.1:{server.listeners.ports()[0]}" for server in servers]

        async def accepted(url: str) -> int:
            count = 0
            while True:
                headers = {"x-api-key": key.strip()}
                reply = await client.post(f"{url}/v2/models/mlp/infer", json=ROW, headers=headers)
                if reply.status_code != 200:
                    assert reply.status_code == 429 and "has used its quota" in reply.text
                    return count
                count += 1

        assert sum(await asyncio.gather(*map(accepted, urls))) == MOST
        headers = {"x-api-key": ops.strip()}
        for url in urls:  # which makes each write
            assert (await client.get(f"{url}/api/v1/usage?key=nobody", headers=headers)).json()["items"] == []
        monkeypatch.setenv("SALVER_TOKEN", ops.strip())
        where = [place, *(["--url", url] for url in urls)]
        for each in where:
            shown = await asyncio.to_thread(salver, "keys", "show", "web", *each)
            assert "0 left of 60 (key-requests-day)" in shown
        text = await asyncio.to_thread(salver, "usage", "--json", "--by", "model", "--url", urls[0])
        assert '"requests":60' in text.replace(" ", "")
        id = (await client.get(f"{urls[1]}/api/v1/keys/web", headers=headers)).json()["id"]
        change = {"limits": {"quotas": ["70/day"]}, "reason": "more"}
        reply = await client.put(f"{urls[1]}/api/v1/keys/{id}/limits", json=change, headers=headers)
        assert reply.status_code == 200, reply.text
        assert await accepted(urls[1]) == 10, "a higher quota holds at once"


async def test_a_server_stops_without_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What its quotas have used is in the file, and the next server goes on from there."""
    write_mlp(tmp_path / "models" / "mlp", 1)
    key = new_key()
    record = KeyRecord("k", "k", hash_of(key), ("infer",), limits=LimitRules(quotas=("80/day",)))
    (tmp_path / "keys.toml").write_text(written([record]))
    config = ServeConfig(
        paths=(str(tmp_path / "models"),),
        front=FrontConfig("127.0.0.1", 0, grace_seconds=5),
        tables={"access": {"keys_file": str(tmp_path / "keys.toml")}},
    )

    async def used(client: httpx.AsyncClient, server: Server) -> float:
        url = f"http://127.0.0.1:{server.listeners.ports()[0]}"
        headers = {"x-api-key": key}
        reply = await client.post(f"{url}/v2/models/mlp/infer", json=ROW, headers=headers)
        assert reply.status_code == 200, reply.text
        me = (await client.get(f"{url}/api/v1/me", headers=headers)).json()
        return 80 - float(me["quotas"][0]["left"])

    async def fails(*_: object) -> None:
        raise LedgerFailed("it is away")

    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        with monkeypatch.context() as patch:
            async with Server(config) as server:
                assert await used(client, server) == 1
                patch.setattr(UsageStore, "flush", fails)
        assert "is not written: it is away" in caplog.text
        async with Server(config) as server:
            assert await used(client, server) == 2


async def test_a_folder_of_its_own_goes_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are in PostgreSQL, and no folder is named: what is there goes to the ledger at the end."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    write_mlp(tmp_path / "models" / "mlp", 1)
    registry = {"ledger": migrated_ledger("postgresql", tmp_path), "artifacts": str(tmp_path / "artifacts")}
    config = ServeConfig(
        paths=(str(tmp_path / "models"),),
        front=FrontConfig("127.0.0.1", 0, grace_seconds=5),
        tables={"registry": registry},
    )
    async with Server(config):
        (made,) = temporary.glob("salver-usage-*")
    assert not made.exists()
