"""The drill of a region: all of its servers are killed under load, and come back."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import msgspec
from callers import Callers
from registries import ANN, found, open_registry
from waiting import auntil

from salver.features.registry.records import NewVersion
from salver.features.routing.operations import InstancesView
from salver.testing.process import ServerProcess, free_port

MODEL = b"""class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        return {"y": inputs["x"] * 2}
"""
SETTINGS = """discover = "ledger:"
discover_s = 0.1
check_s = 0.2
model = "double"
zone = "eu/a"
"""
ZONES = ("eu/a", "eu/b", "us/a", "us/b")


class Regions:
    """Two servers in each of two regions, listed in one ledger, and one in front of them in the first."""

    def __init__(self, folder: Path, registry: Path, stack: ExitStack) -> None:
        self.backs = {}
        for zone in ZONES:
            port = free_port()
            own = ("--registry", str(registry), "--zone", zone, "--advertise", f"http://127.0.0.1:{port}")
            back = ServerProcess([], folder / f"{zone.replace('/', '-')}.log", own)
            stack.callback(back.stop)
            back.start(port)
            self.backs[zone] = back
        for back in self.backs.values():
            back.wait_ready()
        front = folder / "front" / "anywhere"
        front.mkdir(parents=True)
        (front / "instances.toml").write_text(SETTINGS)
        own = ("--registry", str(registry))
        self.front = stack.enter_context(ServerProcess([front.parent], folder / "front.log", own))
        self.front.wait_ready()

    async def view(self) -> InstancesView:
        _, body = await asyncio.to_thread(self.front.get, "/api/v1/models/anywhere/instances")
        return msgspec.json.decode(body, type=InstancesView)

    async def until_all_available(self) -> None:
        """Wait until each server is found and gets requests."""

        async def is_so() -> bool:
            states = [each.state for each in (await self.view()).instances]
            return states == ["available"] * len(ZONES)

        await auntil(is_so, self.front.output)

    async def until_answered_by(self, region: str, callers: Callers) -> None:
        """Wait until some more requests are answered by this region alone."""
        zones = {back.url: zone for zone, back in self.backs.items()}

        async def is_so() -> bool:
            before = {each.url: each.answered for each in (await self.view()).instances}
            await callers.some_more()
            seen = (await self.view()).instances
            busy = [zones[each.url] for each in seen if each.answered > before.get(each.url, 0)]
            return {zone.partition("/")[0] for zone in busy} == {region}

        await auntil(is_so, self.front.output)


async def test_a_lost_region_fails_no_request_and_gets_its_traffic_back(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "registry")
    model = found(tmp_path / "new", {"model.py": MODEL}, framework="python", format="python")
    await registry.push(NewVersion("double"), model, ANN)
    await registry.ledger.close()
    home = {zone for zone in ZONES if zone.startswith("eu")}
    with ExitStack() as stack:
        regions = await asyncio.to_thread(Regions, tmp_path, tmp_path / "registry", stack)
        await regions.until_all_available()
        async with Callers(regions.front.url, "anywhere").calling() as callers:
            await regions.until_answered_by("eu", callers)
            for zone in home:
                regions.backs[zone].signal(signal.SIGKILL)
            await regions.until_answered_by("us", callers)
            assert (await regions.view()).retries > 0  # it was lost under load
            for zone in home:
                regions.backs[zone].wait()
                regions.backs[zone].start(regions.backs[zone].port)
            await regions.until_answered_by("eu", callers)
        assert (callers.errors, callers.wrong) == ([], 0)
