"""Instances that follow the addresses of a name."""

import asyncio
from pathlib import Path

import pytest
from zoo import write_mlp

from salver.features.routing.discovering import addresses, resolve
from salver.features.routing.engine import RoutedModel
from salver.features.routing.loading import InstancesLoader
from salver.testing.process import ServerProcess
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId


def test_addresses_of_both_families() -> None:
    async def both(host: str) -> list[str]:
        assert host == "models.example"
        return ["10.0.0.5", "fd00::5"]

    found = asyncio.run(addresses("http://models.example:8000", both))
    assert found == ["http://10.0.0.5:8000", "http://[fd00::5]:8000"]
    assert asyncio.run(addresses("http://models.example", both))[0] == "http://10.0.0.5:80"


def test_names_are_resolved() -> None:
    assert "127.0.0.1" in asyncio.run(resolve("localhost"))
    with pytest.raises(OSError):
        asyncio.run(resolve("nobody.invalid"))


def test_instances_come_and_go_and_stay_when_nobody_answers(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    folder = tmp_path / "mlp"
    folder.mkdir()
    known: list[str] | OSError = ["127.0.0.1"]

    async def told(host: str) -> list[str]:
        if isinstance(known, OSError):
            raise known
        return known

    async def follow(port: int) -> None:
        nonlocal known
        (folder / "instances.toml").write_text(
            f'discover = "http://models.example:{port}"\ndiscover_s = 0.01\ncheck_s = 0.01\n'
        )
        loader = InstancesLoader(lambda ran: None, lambda: 0.0, {}.get, told)
        manifest = Manifest(ModelId("mlp", "1"), folder, "instances", "instances")
        servable = await loader.load(manifest)
        engine = servable.engine
        assert isinstance(engine, RoutedModel)

        async def until(urls: list[str]) -> None:
            async with asyncio.timeout(60):
                while [each.url for each in engine.router.instances if not each.is_down] != urls:
                    await asyncio.sleep(0.01)

        own, other = f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"
        await until([own])
        known = ["127.0.0.1", "127.0.0.9"]  # nobody listens there: it never gets a request
        async with asyncio.timeout(60):
            while len(engine.router.instances) < 2:
                await asyncio.sleep(0.01)
        await until([own])
        assert set(engine.clients) == {own, f"http://127.0.0.9:{port}"}
        known = OSError("no answer")
        await asyncio.sleep(0.05)
        assert len(engine.router.instances) == 2
        known = ["127.0.0.1"]
        async with asyncio.timeout(60):
            while len(engine.router.instances) > 1:
                await asyncio.sleep(0.01)
        assert set(engine.clients) == {own} and other not in engine.clients
        await servable.close()
        assert loader.models == ()

    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        asyncio.run(follow(server.wait_ready().port))
