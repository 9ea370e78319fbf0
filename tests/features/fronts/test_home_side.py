"""Home process's side of fronts: when a front is killed, and which copies it is told of."""

import asyncio
import pickle
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper, save
from waiting import auntil
from zoo import write_mlp

from salver import front_process
from salver.app import Server
from salver.configuration import ServeConfig
from salver.feature import Feature
from salver.features import FrontsConfig
from salver.features.fronts.copies import Granted
from salver.features.fronts.home import Front, HomeSide
from salver.features.fronts.messages import Ack, Copies
from salver.transport.server import FrontConfig
from salver.words.errors import SalverError, Unsupported


class Hanging(Front):
    """Front without a process, which keeps what it is sent."""

    def __init__(self, side: HomeSide, server: Server) -> None:
        super().__init__(server.kernel, self._app, side.grants.engines, side._hear)
        self.sent: list[Any] = []
        self.killed = False
        self.channel.send = self.sent.append  # type: ignore[method-assign]
        side._fronts.add(self)

    async def _app(self, *_: Any) -> None:
        raise AssertionError("nobody asks")

    def kill(self) -> None:
        self.killed = True
        self.ended.set()


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    write_mlp(tmp_path / "models" / "mlp", 1)
    return ServeConfig(paths=(str(tmp_path / "models"),), front=FrontConfig(port=0))


async def test_a_front_that_gives_no_sign_of_life_is_killed(config: ServeConfig) -> None:
    async with Server(config) as server:
        now = 100.0
        server.kernel.clock = lambda: now
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        front = Hanging(side, server)
        await side.tick()
        assert front.sent == [], "it has not started"
        front._hear(Ack(0))
        for _ in range(3):
            await side.tick()
            front._hear(Ack(front.sent[-1].epoch))
        assert not front.killed
        await side.tick()
        now += 9.0
        await side.tick()
        assert not front.killed
        now += 2.0
        await side.tick()
        assert front.killed


async def test_a_front_that_does_not_start_is_killed(config: ServeConfig) -> None:
    async with Server(config) as server:
        now = 100.0
        server.kernel.clock = lambda: now
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        front = Hanging(side, server)
        now += 59.0
        await side.tick()
        assert not front.killed
        now += 2.0
        await side.tick()
        assert front.killed


OTHER = Feature("oip", "json:loads")


@pytest.mark.parametrize("found", [(), (OTHER,), (OTHER, Feature("fronts", "json:none"))])
async def test_a_front_without_its_features_does_not_start(
    config: ServeConfig, found: tuple[Feature, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer at the port by itself."""
    monkeypatch.setattr(front_process, "discover", lambda: found)
    with pytest.raises(SalverError):
        await front_process._serve(config)


async def test_a_model_with_an_objective_is_copied_as_the_home_process_has_placed_it(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    (tmp_path / "mlp" / "salver.toml").write_text('objective = { latency_p99 = "50ms" }')
    async with Server(ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0))) as server:
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        side.grants.look()
        (pickled,) = side.grants.pickled()
        granted: Granted = pickle.loads(pickled)
        (servable,) = server.kernel.models.servables()
        instances = granted.manifest.config.instances
        assert granted.engine == 0
        assert (instances.count, instances.threads) == (servable.placement.slots, servable.placement.threads)
        assert [way for _, way in side.grants.ways()] == ["copy"]
        await side.grants.close()


@pytest.mark.parametrize("warmup", ["warmup.rounds = 0", "warmup.free_dim = 1_000_000", "warmup.rows = [1]"])
async def test_a_model_that_is_not_measured_is_copied(tmp_path: Path, warmup: str) -> None:
    """It must not run on zeros, cannot, or its runs are short."""
    write_double(tmp_path / "mlp" / "1")
    (tmp_path / "mlp" / "salver.toml").write_text(warmup)
    async with Server(ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0))) as server:
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        side.grants.look()
        await auntil(side.grants.pickled)
        assert [way for _, way in side.grants.ways()] == ["copy"]
        await side.grants.close()


def write_double(folder: Path) -> None:
    """Doubles matrices of any size."""
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "k", "l"])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", *sides)
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(folder / "model.onnx"))


async def test_an_answer_waits_for_the_end_of_a_copy(config: ServeConfig) -> None:
    async with Server(config) as server:
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        front = Hanging(side, server)
        front._hear(Ack(0))
        await side.tick()
        await auntil(lambda: front.sent[-1].granted)
        granted: Copies = front.sent[-1]
        assert len(granted.granted) == 1
        front._hear(Ack(granted.epoch))
        await side.settle()
        server.kernel.models.apply([])
        settling = asyncio.ensure_future(side.settle())
        await auntil(lambda: front.sent[-1].granted == ())
        assert not settling.done()
        front._hear(Ack(front.sent[-1].epoch))
        await settling
        assert not front.killed


@pytest.mark.parametrize("decides", ["keys", "models.residence"])
async def test_no_copies_where_something_else_decides(config: ServeConfig, decides: str) -> None:
    async with Server(config) as server:
        side = HomeSide(server.kernel, FrontsConfig(count=2))
        front = Hanging(side, server)
        place, _, name = f"kernel.{decides}".rpartition(".")
        setattr(attrgetter(place)(server), name, SimpleNamespace(absent=lambda chosen: frozenset()))
        front._hear(Ack(0))
        await side.tick()
        assert all(each.granted == () for each in front.sent)


async def test_what_connections_tell_needs_one_front(config: ServeConfig) -> None:
    async with Server(config) as server:
        server.kernel.peers = lambda transport: ()
        with pytest.raises(Unsupported, match="--identity-file"):
            HomeSide(server.kernel, FrontsConfig(count=2)).enclose([])
