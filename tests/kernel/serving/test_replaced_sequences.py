"""A version that is replaced answers its sequences until they end (TR-S4, TR-L4).

The door, the lifecycle and the engines together, under a clock that is set.
"""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.protocol import Answer
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.sequence_engine import SequenceEngine
from salver.kernel.engine.sequences import Register
from salver.kernel.lifecycle import LifecycleConfig, Manager
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Control, Manifest, ModelConfig, Sequences, Versions
from salver.words.errors import InvalidInput, NotFound, NotReady
from salver.words.messages import Call, InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

IDLE_S, BOUND_S = 10.0, 30.0
SEQUENCES = Sequences(
    "oldest", candidates=3, idle_ms=IDLE_S * 1e3, controls=(Control("ID", "corrid", DataType.UINT64),)
)


class Summing:
    """One instance; a sum for each sequence, that only it knows."""

    slots = 1
    is_closed = False
    signature = Signature(
        (TensorSpec("IN", DataType.INT64, (-1, 1)), TensorSpec("ID", DataType.UINT64, (-1, 1))),
        (TensorSpec("SUM", DataType.INT64, (-1, 1)),),
        batched=True,
    )

    def __init__(self):
        self.sums = {}

    async def answer(self, requests):
        await asyncio.sleep(0)
        assert not self.is_closed
        return [self._one(request) for request in requests], 1e-3

    def _one(self, request):
        id, starts = request.parameters["sequence_id"], request.parameters["sequence_start"]
        value = {t.name: t.array.item() for t in request.inputs}["IN"]
        self.sums[id] = value if starts else self.sums[id] + value
        return Answer({"SUM": np.array([[self.sums[id]]])})

    async def run(self, inputs):
        raise NotImplementedError

    def run_inline(self, inputs):
        return None

    async def run_each(self, inputs):
        return []

    async def close(self):
        self.is_closed = True


class World:
    """A server of the model m, whose versions are loaded at once."""

    def __init__(self):
        self.now = 100.0
        self.engines, self.runners, self.register = [], [], Register()
        self.bus = Bus(())
        self.manager = Manager(
            self, lambda: self.now, lambda _: None, LifecycleConfig(sequences_s=BOUND_S), lambda _: None
        )
        self.door = DataPlane(RequestPath(self.manager, self.bus.emit, lambda: self.now, lambda: "0" * 16))
        self.inner = Inner(lambda: self.door)

    async def load(self, manifest):
        runner = Summing()
        engine = SequenceEngine(
            manifest.id, [runner], manifest.config, clock=lambda: self.now, emit=lambda _: None
        )
        engine.join(self.register)
        self.engines.append(engine)
        self.runners.append(runner)
        return Servable(manifest, engine, Placement("thread", 1, 1))

    async def have(self, *versions, files="a", all=False, labels=()):
        """These versions and no others are there, of those files."""
        config = ModelConfig(sequences=SEQUENCES, versions=Versions(all=all), labels=dict(labels))
        self.manager.apply(
            [Manifest(ModelId("m", v), Path("/m"), "python", "python", config, files) for v in versions]
        )
        await self.manager.settled()
        await self.rest()

    async def pass_time(self, seconds):
        self.now += seconds
        await self.rest()

    async def rest(self):
        """Nothing is left to be done now."""
        for engine in self.engines:
            engine._pump_soon()
        for _ in range(30):
            await asyncio.sleep(0)
        while self.is_closing:  # memory is given back in a thread, which may take its time
            await asyncio.sleep(0.001)

    @property
    def is_closing(self):
        return any(s.state.value == "UNLOADING" for s in self.manager.statuses())

    async def ask(self, id, value, flags="", version=""):
        """Who answered, and the sum; ``flags`` has ``s`` to start and ``e`` to end."""
        parameters = {"sequence_id": id, "sequence_start": "s" in flags, "sequence_end": "e" in flags}
        inputs = (tensor("IN", np.array([[value]], "i8")),)
        request = InferRequest("m", inputs, version, parameters=parameters)
        response = await self.inner.infer(request, Call("test", self.now))
        return response.version, response.outputs[0].array.item()

    @property
    def states(self):
        return {s.id.version: s.state.value for s in self.manager.statuses()}

    async def end(self):
        await self.manager.drain(5)
        assert all(runner.is_closed for runner in self.runners)


@pytest.mark.clause("TR-S4")
async def test_a_replaced_version_ends_its_sequences_and_begins_no_other():
    world = World()
    await world.have("1")
    assert await world.ask(7, 1, "s") == ("1", 1)
    await world.have("1", "2")
    assert world.states == {"1": "DRAINING", "2": "READY"}
    (old, _) = world.manager.statuses()
    assert old.reason == "replaced, and open to the sequences that it knows until they end"
    assert await world.ask(7, 2) == ("1", 3)
    assert await world.ask(8, 5, "s") == ("2", 5)
    assert await world.ask(8, 5) == ("2", 10)
    assert await world.ask(7, 2, version="1") == ("1", 5)
    with pytest.raises(NotReady, match="'m' version 1 is not at ready state"):
        await world.ask(9, 1, "s", version="1")
    with pytest.raises(NotReady, match="'m' version 1 is not at ready state"):
        await world.ask(8, 1, version="1")
    with pytest.raises(InvalidInput, match="sequence 7 to model 'm' must specify the START flag"):
        await world.ask(7, 1, version="2")
    assert await world.ask(7, 3, "e") == ("1", 8)
    await world.rest()
    assert world.states == {"1": "GONE", "2": "READY"}
    assert world.runners[0].is_closed
    with pytest.raises(NotFound, match="version 1 is not found"):
        await world.ask(7, 1, version="1")
    await world.end()


@pytest.mark.clause("TR-L4")
async def test_files_that_change_under_a_version():
    world = World()
    await world.have("1")
    await world.ask(7, 1, "s")
    await world.have("1", files="b")
    await world.have("1", files="c")
    assert len(world.engines) == 3
    assert await world.ask(7, 2, version="1") == ("1", 3)
    assert await world.ask(8, 9, "s", version="1") == ("1", 9)
    assert (world.runners[0].sums, world.runners[2].sums) == ({7: 3}, {8: 9})
    assert [runner.is_closed for runner in world.runners] == [False, True, False]
    assert await world.ask(7, 0, "s") == ("1", 0)  # it begins anew, where all that is new begins
    assert await world.ask(7, 1, "e") == ("1", 1)
    assert world.runners[0].sums == {7: 3}
    await world.end()


@pytest.mark.clause("TR-S4")
async def test_a_version_beside_a_newer_one_keeps_what_began_in_it():
    world = World()
    await world.have("1", all=True)
    await world.ask(7, 1, "s")
    await world.have("1", "2", all=True)
    assert await world.ask(7, 2) == ("1", 3)
    assert await world.ask(8, 2, "se") == ("2", 2)
    await world.end()


async def test_a_sequence_that_began_by_a_label_stays_where_it_began_when_the_label_moves():
    world = World()
    await world.have("1", "2", all=True, labels={"stable": "1"})
    assert await world.ask(7, 1, "s", version="stable") == ("1", 1)
    await world.have("1", "2", all=True, labels={"stable": "2"})
    assert await world.ask(8, 5, "s", version="stable") == ("2", 5)
    assert await world.ask(7, 2, version="stable") == ("1", 3)
    await world.end()


@pytest.mark.clause("TR-C9")
async def test_silence_ends_the_last_sequence_of_a_replaced_version():
    world = World()
    await world.have("1")
    await world.ask(7, 1, "s")
    await world.have("1", "2")
    await world.pass_time(IDLE_S + 1)
    assert world.states == {"1": "GONE", "2": "READY"}
    with pytest.raises(InvalidInput, match=r"START flag .* Nothing was heard of it for 10000 ms"):
        await world.ask(7, 1)
    await world.end()


@pytest.mark.clause("TR-S4")
async def test_a_sequence_without_end_is_not_waited_for_without_end():
    world = World()
    await world.have("1")
    await world.ask(7, 1, "s")
    await world.have("1", "2")
    for _ in range(math.ceil(BOUND_S / 6) - 1):
        await world.pass_time(6.0)
        assert (await world.ask(7, 1))[0] == "1"
    await world.pass_time(6.0)
    assert world.states == {"1": "GONE", "2": "READY"}
    with pytest.raises(
        InvalidInput, match=r"START flag .* Version 1, which knew it, was replaced, and waited"
    ):
        await world.ask(7, 1)
    assert await world.ask(7, 1, "s") == ("2", 1)
    with pytest.raises(InvalidInput, match=r"first request of the sequence$"):
        await world.ask(9, 1)
    await world.end()


@pytest.mark.clause("TR-R13")
@pytest.mark.parametrize("is_replaced_first", [False, True])
async def test_an_unload_waits_for_no_sequence(is_replaced_first):
    """As in Triton: the model is gone for all requests that come after."""
    world = World()
    await world.have("1")
    await world.ask(7, 1, "s")
    if is_replaced_first:
        await world.have("1", "2")
    await world.have()
    assert world.states == {}
    for version in ("", "1"):
        with pytest.raises(NotFound, match="Request for unknown model: 'm'"):
            await world.ask(7, 1, version=version)
    await world.end()


@pytest.mark.clause("TR-L6")
async def test_the_end_of_the_server_waits_for_no_sequence():
    world = World()
    await world.have("1")
    await world.ask(7, 1, "s")
    await world.have("1", "2")
    await world.ask(8, 1, "s")
    await world.manager.drain(5)
    assert world.states == {}


@pytest.mark.clause("TR-S6")
async def test_members_that_an_ensemble_holds():
    """A sequence that began through an ensemble of the old version goes on through that of the new one."""
    world = World()
    await world.have("1")
    door, held = world.door.holding([("m", "")])
    inner = Inner(lambda: door)
    request = InferRequest("m", (tensor("IN", np.array([[5]], "i8")),), parameters={"sequence_id": 7})
    start = InferRequest("m", request.inputs, parameters={"sequence_id": 7, "sequence_start": True})
    assert (await inner.infer(start, Call("test", 0.0))).version == "1"
    await world.have("1", "2")
    newer, held_newer = world.door.holding([("m", "")])
    response = await Inner(lambda: newer).infer(request, Call("test", 0.0))
    assert (response.version, response.outputs[0].array.item()) == ("1", 10)
    held.release()
    held_newer.release()
    await world.end()


ACTION = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3), st.sampled_from(["s", "", "", "e"])),
    st.tuples(st.just("all"), st.none(), st.sampled_from(["s", ""])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 4.0, 11.0, 25.0]), st.none()),
    st.tuples(st.just("replace"), st.none(), st.none()),
)


class Watched:
    """What has to come of each request, by a plain account of the sequences."""

    def __init__(self, world):
        self.world = world
        self.version = 1
        self.replaced = {}  # versions, and when
        self.begun = {}  # by id: version, sum, when it was heard of

    def lives(self, id):
        """The version that knows it; None = it is over."""
        version, _, heard = self.begun.get(id, (None, 0, 0.0))
        if version is None or self.world.now >= heard + IDLE_S:
            return None
        left = self.replaced.get(version)
        return None if left is not None and self.world.now >= left + BOUND_S else version

    async def ask(self, id, flags):
        known = self.version if "s" in flags else self.lives(id)
        if known is None:
            with pytest.raises(InvalidInput, match="must specify the START flag"):
                await self.world.ask(id, id, flags)
            return
        total = id if "s" in flags else self.begun[id][1] + id
        self.begun[id] = known, total, self.world.now
        assert await self.world.ask(id, id, flags) == (str(known), total)
        if "e" in flags:
            del self.begun[id]

    async def replace(self):
        self.replaced[self.version] = self.world.now
        self.version += 1
        await self.world.have(*map(str, range(1, self.version + 1)))

    def check(self):
        """Who is open is exactly who is needed; a START anew leaves the old one to silence."""
        up = {int(v) for v, state in self.world.states.items() if state in ("READY", "DRAINING")}
        needed = {self.version} | {v for id in self.begun if (v := self.lives(id)) is not None}
        assert needed <= up
        for version in up - {self.version}:
            assert self.world.now < self.replaced[version] + BOUND_S


@pytest.mark.clause("TR-S4")
@settings(max_examples=60)
@given(st.lists(ACTION, min_size=10, max_size=40))
def test_no_sequence_is_cut_by_a_change_of_version(actions):
    """Requests, silences and replacements in any order: each sum is its own, and answered where it began."""

    async def go():
        world = World()
        await world.have("1")
        watched = Watched(world)
        for what, first, second in actions:
            if what == "ask":
                await watched.ask(first, second)
            elif what == "all":
                await asyncio.gather(*(watched.ask(id, second) for id in (1, 2, 3)))
            elif what == "wait":
                await world.pass_time(first)
            else:
                await watched.replace()
            await world.rest()
            watched.check()
        await world.pass_time(BOUND_S + IDLE_S)
        assert [v for v, state in world.states.items() if state != "GONE"] == [str(watched.version)]
        await world.end()

    asyncio.run(go())
