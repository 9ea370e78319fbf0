"""Servers of a ledger: what they announce, and a model that they answer together."""

import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import zoo
from pushing import BODY, VALUES, push
from registries import Clock, open_registry
from waiting import PATIENCE_S, auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.servers import AnnouncedServers, listed_servers
from salver.parts import ServerPlace
from salver.testing.process import ServerProcess, free_port
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput


async def test_servers_are_listed_while_they_announce(registry: ModelRegistry) -> None:
    clock, models = Clock(), ["fraud", "sum"]

    def server(url: str, zone: str = "") -> AnnouncedServers:
        return AnnouncedServers(registry.ledger, url, zone, clock, lambda: models)

    first, second = server("http://a:8000/", "eu/a"), server("https://b")
    await first.announce()
    await second.announce()
    place = ServerPlace("http://a:8000", "eu/a")
    assert await second.serving("sum") == [place, ServerPlace("https://b")]
    assert await second.serving("su") == []
    models.remove("sum")
    await second.announce()  # at once, as it is a change
    assert await first.serving("sum") == [place]
    await first.withdraw()
    await first.announce()
    assert await server("").serving("fraud") == [ServerPlace("https://b")]
    assert [
        (each.zone, each.url, each.models) for each in await listed_servers(registry.ledger, clock())
    ] == [("", "https://b", ["fraud"])]
    clock.now += 61
    assert await first.serving("fraud") == []  # it has ended without a word


@pytest.mark.parametrize("url", ["10.0.0.5:8000", "ftp://a", "http://"])
async def test_what_is_announced_is_a_url(registry: ModelRegistry, url: str) -> None:
    with pytest.raises(InvalidInput, match="is not the URL of a server") as raised:
        AnnouncedServers(registry.ledger, url, "", lambda: 0.0, list)
    assert raised.value.field == "--advertise"


async def test_a_model_is_answered_by_the_servers_of_the_ledger(tmp_path: Path) -> None:
    home = tmp_path / "registry"
    registry = await open_registry("sqlite", home)
    await push(registry, tmp_path / "mlp")
    folder = tmp_path / "front" / "anywhere"
    folder.mkdir(parents=True)
    (folder / "instances.toml").write_text('discover = "ledger:"\ndiscover_s = 0.02\nmodel = "fraud"\n')
    port, own = free_port(), {"ledger": str(home)}
    url = f"http://127.0.0.1:{port}"
    options = ["--registry", str(home), "--advertise", url, "--zone", "eu/a", "--port", str(port)]
    front = ServeConfig((str(folder.parent),), tables={"registry": own}, front=FrontConfig("127.0.0.1", 0))
    listed = AnnouncedServers(registry.ledger, "", "", time.time, list)

    async def found() -> list[str]:
        return [each.url for each in await listed.serving("fraud")]

    # A process of its own, since loading in this one would delay its answers to the other.
    with ServerProcess([], tmp_path / "log", options) as back:
        await auntil(found, back.output)
        async with Server(front) as server, httpx.AsyncClient(base_url=server.url) as client:
            answer = (await client.post("/v2/models/anywhere/infer", json=BODY, timeout=PATIENCE_S)).json()
            assert "outputs" in answer, answer
            assert np.allclose(answer["outputs"][0]["data"], zoo.mlp_answer(VALUES).ravel(), atol=1e-5)
            view = (await client.get("/api/v1/models/anywhere/instances")).json()
            assert [each["url"] for each in view["instances"]] == [url]
            assert await listed.serving("anywhere") == []  # others answer it
    assert await found() == []
    await registry.ledger.close()
