"""The engine of sequences (TR-S4, TR-C9): state never mixes, slots are freed, whoever leaves or dies."""

import asyncio
import random
from collections.abc import Mapping

import numpy as np
import pytest

from salver.backends.protocol import Answer
from salver.kernel.engine.sequence_engine import SequenceEngine
from salver.kernel.engine.turns import ResourcePool
from salver.words.artifacts import Batching, Control, ModelConfig, RateLimit, Sequences, SequenceState
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
)
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

ID = ModelId("m", "1")
KINDS = ("start", "end", "ready")
FLAGS = tuple(Control(kind.upper(), kind) for kind in KINDS)
CORRID = Control("CORRID", "corrid", DataType.UINT64)
STATE = SequenceState("S_IN", "S_OUT", DataType.INT64, (1,))


def spec(name, datatype=DataType.INT64, shape=(-1, 1)):
    return TensorSpec(name, datatype, shape)


class FakeRunner:
    """One instance; ``gate`` holds its runs."""

    slots = 1
    deaths = 0
    gate: asyncio.Event | None = None
    is_closed = False
    shapes: list[int]

    inputs = (spec("IN"), *(spec(c.name, DataType.INT32) for c in FLAGS), spec("CORRID", DataType.UINT64))
    signature = Signature(inputs, (spec("SUM"),), batched=True)
    sequences = Sequences("direct", controls=(*FLAGS, CORRID))
    error: Exception | None = None

    def __init__(self):
        self.shapes = []

    async def run(self, inputs):
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.shapes.append(len(inputs["IN"]))
        return self.compute({name: array[:, 0] for name, array in inputs.items()}), 1e-3

    def compute(self, columns: Mapping[str, Array]) -> Mapping[str, Array]:
        raise NotImplementedError

    def run_inline(self, inputs):
        return None

    async def run_each(self, inputs):
        return [(await self.run(inputs))[0]]

    async def close(self):
        self.is_closed = True


class ByRow(FakeRunner):
    """Keeps a sum for each row of its runs: all that it is told of a sequence is its row."""

    def __init__(self):
        super().__init__()
        self.sums = np.zeros(8, "i8")

    def compute(self, columns):
        for row, (value, start, ready) in enumerate(
            zip(columns["IN"], columns["START"], columns["READY"], strict=True)
        ):
            if ready:
                self.sums[row] = value + (0 if start else self.sums[row])
            else:
                assert not value
        return {"SUM": self.sums[: len(columns["IN"]), None].copy()}


class ById(FakeRunner):
    """Keeps a sum for each id that it was told."""

    sequences = Sequences("oldest", candidates=5, controls=(*FLAGS, CORRID))

    def __init__(self):
        super().__init__()
        self.sums = {}

    def compute(self, columns):
        out = []
        for id, value, start in zip(columns["CORRID"], columns["IN"], columns["START"], strict=True):
            self.sums[id] = value + (0 if start else self.sums[id])
            out.append([self.sums[id]])
        assert all(columns["READY"])
        return {"SUM": np.array(out)}


class Pure(FakeRunner):
    """Knows nothing: the server keeps its sum. A negative number makes its whole run fail."""

    signature = Signature((spec("IN"), spec("S_IN")), (spec("SUM"), spec("S_OUT")), batched=True)
    sequences = Sequences("oldest", candidates=5, states=(STATE,))

    def compute(self, columns):
        if (columns["IN"] < 0).any():
            raise ModelFailed("poison")
        total = (columns["IN"] + columns["S_IN"])[:, None]
        return {"SUM": total, "S_OUT": total}


class PureDirect(Pure):
    sequences = Sequences("direct", states=(STATE,))


class Rig:
    """An engine with a clock that is set, on so many instances."""

    def __init__(self, kind=ByRow, instances=1, rows=4, max_queue=10_000, remembers=True, **more):
        self.now = 0.0
        self.events = []
        self.runners = [kind() for _ in range(instances)]
        config = ModelConfig(
            batching=Batching(max_rows=rows, max_queue=max_queue), sequences=kind.sequences, **more
        )
        self.engine = SequenceEngine(
            ID, self.runners, config, clock=lambda: self.now, emit=self.events.append, remembers=remembers
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for runner in self.runners:
            if runner.gate:
                runner.gate.set()
        await self.engine.close()

    @property
    def slots(self):
        insight = self.engine.insight()
        return insight.sequences, insight.backlog

    async def ask(self, id, value, flags="", deadline=None):
        """The sum; ``flags`` has ``s`` to start and ``e`` to end."""
        response = await self.engine.infer(request(id, value, flags), deadline)
        return response.outputs[0].array.item()

    def begin(self, id, value, flags="", deadline=None):
        return asyncio.ensure_future(self.ask(id, value, flags, deadline))


def request(id, value, flags="", rows=1):
    parameters = {"sequence_start": "s" in flags, "sequence_end": "e" in flags}
    if id is not None:
        parameters["sequence_id"] = id
    inputs = (tensor("IN", np.full((rows, 1), value, "i8")),)
    return InferRequest("m", inputs, id="7", parameters=parameters)


async def turns(count=20):
    """Let the loop do what it has to."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("kind", [ByRow, ById, Pure, PureDirect])
async def test_sums_of_interleaved_sequences(kind):
    async with Rig(kind) as rig:
        assert [t.name for t in rig.engine.signature.inputs] == ["IN"]
        assert [t.name for t in rig.engine.signature.outputs] == ["SUM"]
        assert await rig.ask(1, 1, "s") == 1
        assert await rig.ask(2, 100, "s") == 100
        assert await rig.ask(1, 2) == 3
        assert await rig.ask(2, 200, "e") == 300
        assert await rig.ask(1, 3, "e") == 6
        assert rig.slots == (0, 0)
        assert await rig.ask(1, 9, "se") == 9
        assert {event.requests for event in rig.events} == {1}


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("kind", [ByRow, ById, Pure, PureDirect])
async def test_requests_that_come_at_once_share_a_run(kind):
    async with Rig(kind) as rig:
        firsts = await asyncio.gather(*(rig.ask(id, id, "s") for id in (1, 2, 3)))
        seconds = await asyncio.gather(*(rig.ask(id, 10) for id in (1, 2, 3)))
        assert (firsts, seconds) == ([1, 2, 3], [11, 12, 13])
        assert rig.runners[0].shapes == [3, 3]


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("kind", [ByRow, ById, Pure, PureDirect])
async def test_all_of_a_sequence_at_once_is_answered_in_its_order(kind):
    async with Rig(kind) as rig:
        asked = [rig.begin(1, 1, "s"), *(rig.begin(1, 1) for _ in range(8)), rig.begin(1, 1, "e")]
        assert await asyncio.gather(*asked) == list(range(1, 11))


async def _client(rig, chance, id, going, seen):
    """One sequence of a random length, perhaps of a caller that leaves; what its sums had to be."""
    total = 0
    length = chance.randint(1, 12)
    leaves_at = chance.randint(0, length - 1) if chance.random() < 0.3 else None
    try:
        for step in range(length):
            value = chance.randint(1, 1000)
            total += value
            flags = ("s" if step == 0 else "") + ("e" if step == length - 1 else "")
            asked = rig.begin(id, value, flags)
            if step == leaves_at:
                for _ in range(chance.randint(0, 4)):
                    await asyncio.sleep(0)
                if chance.random() < 0.7:
                    asked.cancel()  # a hang-up; otherwise it hears the answer, and is never seen again
                await asyncio.gather(asked, return_exceptions=True)
                seen["left"] += 1
                return
            assert await asked == total, (id, step)
            for _ in range(chance.randint(0, 5)):
                await asyncio.sleep(0)
        seen["ended"] += 1
    except InvalidInput as error:  # silent for too long: said, and never answered with another's state
        assert "must specify the START flag" in str(error)
        seen["expired"] += 1
    finally:
        going.discard(id)


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("kind", [ByRow, ById, Pure, PureDirect])
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_thousand_interleaved_sequences(kind, seed):
    """Random lengths, callers that die in the middle, silences: no state mixes, and every slot is freed."""
    chance = random.Random(seed)
    seen = dict.fromkeys(("left", "ended", "expired"), 0)
    going: set[int] = set()
    async with Rig(kind, instances=3) as rig:
        waiting = [(id, random.Random(seed * 10_000 + id)) for id in range(1, 1001)]
        clients = []
        while waiting or going:
            while waiting and len(going) < 40:
                id, own = waiting.pop()
                going.add(id)
                clients.append(asyncio.ensure_future(_client(rig, own, id, going, seen)))
            rig.now += chance.choice([0.0, 0.0, 0.01, 0.3])
            rig.engine._pump_soon()
            await asyncio.sleep(0)
        await asyncio.gather(*clients)
        assert sum(seen.values()) == 1000
        assert min(seen.values()) > 10, seen
        await turns()
        rig.now += 100
        rig.engine._pump_soon()
        await turns()
        assert rig.slots == (0, 0)
        assert (rig.engine.queued, rig.engine.running) == (0, 0)


@pytest.mark.clause("TR-R23")
async def test_ids_are_numbers_or_texts():
    async with Rig(ById) as rig:
        assert await rig.ask("walk-1", 5, "s") == 5
        assert await rig.ask("walk-1", 6, "e") == 11
        assert await rig.ask(-1, 5, "s") == 5
        assert await rig.ask((1 << 64) - 1, 6, "e") == 11
        assert (1 << 64) - 1 in rig.runners[0].sums
        assert await rig.ask("x" * 128, 1, "se") == 1
        for id in ("x" * 129, "é" * 65, 1.5, True, 1 << 64):
            with pytest.raises(InvalidInput, match="whole number of 64 bits or a text of at most 128 bytes"):
                await rig.ask(id, 1, "s")


@pytest.mark.clause("TR-R23")
@pytest.mark.parametrize("id", [None, 0, ""])
async def test_without_an_id(id):
    async with Rig() as rig:
        with pytest.raises(InvalidInput) as refused:
            await rig.ask(id, 1, "s")
        text = "inference request to model 'm' must specify a non-zero or non-empty correlation ID"
        assert str(refused.value) == text
        assert refused.value.about is None


@pytest.mark.clause("TR-R23")
async def test_a_flag_is_a_boolean():
    async with Rig() as rig:
        with pytest.raises(InvalidInput, match="parameter 'sequence_end' must be a boolean"):
            parameters = {"sequence_id": 1, "sequence_end": 1}
            await rig.engine.infer(InferRequest("m", request(1, 1).inputs, parameters=parameters))


@pytest.mark.clause("TR-S4")
async def test_one_row_a_request():
    async with Rig() as rig:
        with pytest.raises(InvalidInput) as refused:
            await rig.engine.infer(request(1, 1, "s", rows=2))
        assert str(refused.value) == (
            "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
        )


@pytest.mark.clause("TR-S4")
async def test_a_restart_forgets():
    async with Rig(Pure) as rig:
        assert await rig.ask(1, 5, "s") == 5
        assert await rig.ask(1, 2, "s") == 2
        assert await rig.ask(1, 3, "e") == 5


@pytest.mark.clause("TR-C9")
async def test_silence_ends_a_sequence_and_gives_its_slot_to_another():
    async with Rig(ByRow, rows=1) as rig:
        assert await rig.ask(1, 5, "s") == 5
        second = rig.begin(2, 7, "s")
        await turns()
        assert rig.slots == (1, 1)
        rig.now += 1.5
        rig.engine._pump_soon()
        assert await second == 7
        with pytest.raises(InvalidInput, match=r"START flag .* Nothing was heard of it for 1000 ms"):
            await rig.ask(1, 6)


@pytest.mark.clause("TR-C9")
async def test_a_request_that_comes_too_late_is_too_late_before_anybody_noticed():
    async with Rig(ByRow) as rig:
        await rig.ask(1, 5, "s")
        rig.now += 1.5
        with pytest.raises(InvalidInput, match="must specify the START flag"):
            await rig.ask(1, 6)


@pytest.mark.clause("TR-S4")
async def test_a_caller_that_leaves_while_it_waits_ends_its_sequence():
    async with Rig(ByRow) as rig:
        rig.runners[0].gate = asyncio.Event()
        first = rig.begin(1, 1, "s")
        await turns()
        waiting, behind = rig.begin(1, 2), rig.begin(1, 3)
        await turns()
        waiting.cancel()
        with pytest.raises(InvalidInput, match="the sequence 1 has ended"):
            await behind
        rig.runners[0].gate.set()
        assert await first == 1
        assert rig.slots == (0, 0)


@pytest.mark.clause("TR-S4")
async def test_a_caller_that_leaves_while_it_runs_leaves_no_gap():
    async with Rig(ByRow) as rig:
        rig.runners[0].gate = asyncio.Event()
        first = rig.begin(1, 1, "s")
        await turns()
        first.cancel()
        rig.runners[0].gate.set()
        await turns()
        assert await rig.ask(1, 2) == 3


@pytest.mark.clause("TR-S4")
async def test_a_request_past_its_deadline_ends_its_sequence():
    async with Rig(ByRow) as rig:
        rig.runners[0].gate = asyncio.Event()
        first = rig.begin(1, 1, "s")
        await turns()
        with pytest.raises(DeadlineExceeded):
            await rig.ask(1, 2, deadline=0.01)
        rig.runners[0].gate.set()
        assert await first == 1
        with pytest.raises(InvalidInput, match="ran out of time"):
            await rig.ask(1, 3)
        with pytest.raises(DeadlineExceeded):
            await rig.ask(2, 3, "s", deadline=-1.0)


async def test_a_run_that_fails_costs_no_state_and_is_not_repeated():
    async with Rig(ByRow) as rig:
        both = await asyncio.gather(rig.ask(1, 1, "s"), rig.ask(2, 2, "s"))
        rig.runners[0].error = ModelFailed("poison")
        failed = await asyncio.gather(rig.ask(1, 10), rig.ask(2, 20), return_exceptions=True)
        rig.runners[0].error = None
        assert both == [1, 2]
        assert [str(error) for error in failed] == ["poison", "poison"]
        assert failed[0] is not failed[1]
        assert await asyncio.gather(rig.ask(1, 10), rig.ask(2, 20)) == [11, 22]
        assert rig.runners[0].shapes == [2, 2]


async def test_a_culprit_is_alone_where_runs_may_be_repeated():
    async with Rig(Pure, remembers=False) as rig:
        await asyncio.gather(rig.ask(1, 1, "s"), rig.ask(2, 2, "s"))
        good, bad = await asyncio.gather(rig.ask(1, 10), rig.ask(2, -20), return_exceptions=True)
        assert (good, str(bad)) == (11, "poison")
        assert await rig.ask(2, 3) == 5  # as it was before


@pytest.mark.parametrize("kind", [ByRow, ById])
async def test_a_host_that_dies_ends_what_it_knew(kind):
    async with Rig(kind, instances=2) as rig:
        await asyncio.gather(*(rig.ask(id, id, "s") for id in (1, 2, 3)))
        rig.runners[0].error = HostDied("it died")
        with pytest.raises(HostDied, match="it died"):
            await rig.ask(1, 10)
        rig.runners[0].error = None
        rig.runners[0].deaths += 1
        for id in (1, 3):
            with pytest.raises(InvalidInput, match=r"START flag .* The host process that knew it died"):
                await rig.ask(id, 10)
        assert await rig.ask(2, 10) == 12  # it was on the other one
        assert await rig.ask(3, 10, "se") == 10
        assert rig.slots == (1, 0)


async def test_a_death_between_two_requests_is_never_answered_from_nothing():
    async with Rig(ById) as rig:
        await rig.ask(1, 1, "s")
        rig.runners[0].deaths += 1
        rig.runners[0].sums.clear()
        with pytest.raises(HostDied, match="the sequence 1 of model 'm' is lost"):
            await rig.ask(1, 2)
        assert rig.slots == (0, 0)


async def test_a_full_queue_refuses():
    async with Rig(max_queue=2) as rig:
        rig.runners[0].gate = asyncio.Event()
        asked = [rig.begin(1, 1, "s")]
        await turns()
        asked += [rig.begin(1, 1), rig.begin(1, 1)]
        await turns()
        with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
            await rig.ask(1, 1)
        rig.runners[0].gate.set()
        assert await asyncio.gather(*asked) == [1, 2, 3]


@pytest.mark.clause("TR-S4")
async def test_an_unload_with_sequences_alive():
    rig = Rig(ByRow, rows=1)
    rig.runners[0].gate = asyncio.Event()
    first = rig.begin(1, 1, "s")
    await turns()
    more = [rig.begin(1, 2), rig.begin(2, 2, "s")]
    await turns()
    closing = asyncio.ensure_future(rig.engine.close())
    await turns()
    rig.runners[0].gate.set()
    await closing
    assert await first == 1
    for asked in more:
        with pytest.raises(NotReady, match="was unloaded"):
            await asked
    with pytest.raises(NotReady, match="is shutting down"):
        await rig.ask(3, 1, "s")
    assert rig.runners[0].is_closed
    assert rig.engine.queued == 0


@pytest.mark.clause("TR-S9")
async def test_instances_take_turns_with_others():
    pool = ResourcePool({"r": 2})
    async with Rig(ByRow, instances=2) as rig:
        rig.engine.share(pool, [RateLimit(2, {"r": 2})])
        for runner in rig.runners:
            runner.gate = asyncio.Event()
        asked = [rig.begin(id, id, "s") for id in (1, 2)]
        await turns()
        assert rig.engine.running == 1
        for runner in rig.runners:
            runner.gate.set()
        assert await asyncio.gather(*asked) == [1, 2]
        assert await asyncio.gather(rig.ask(1, 10), rig.ask(2, 10)) == [11, 12]
    with pytest.raises(LoadFailed, match="minimum required count is 3"):
        Rig(ByRow).engine.share(pool, [RateLimit(1, {"r": 3})])


class Growing(FakeRunner):
    """Its state is all that it has seen: of free extent."""

    inputs = (spec("IN"), spec("S_IN", shape=(-1, -1)))
    signature = Signature(inputs, (spec("SUM"), spec("S_OUT", shape=(-1, -1))), batched=True)
    sequences = Sequences(
        "oldest", candidates=4, states=(SequenceState("S_IN", "S_OUT", DataType.INT64, (-1,)),)
    )

    async def run(self, inputs):
        self.shapes.append(len(inputs["IN"]))
        grown = np.concatenate([inputs["S_IN"], inputs["IN"]], axis=1)
        return {"SUM": grown.sum(axis=1, keepdims=True), "S_OUT": grown}, 1e-3


@pytest.mark.clause("TR-C9")
async def test_states_of_free_extent_share_runs_where_they_are_alike():
    async with Rig(Growing) as rig:
        assert await asyncio.gather(*(rig.ask(id, id, "s") for id in (1, 2, 3))) == [1, 2, 3]
        assert await rig.ask(3, 10) == 13
        assert await asyncio.gather(*(rig.ask(id, 10) for id in (1, 2, 3))) == [11, 12, 23]
        assert sorted(rig.runners[0].shapes) == [1, 1, 2, 3]


@pytest.mark.clause("TR-C9")
async def test_a_state_of_another_shape_than_said_is_the_models_error():
    class Wrong(Pure):
        def compute(self, columns):
            total = (columns["IN"] + columns["S_IN"])[:, None]
            return {"SUM": total, "S_OUT": np.repeat(total, 2, axis=1)}

    async with Rig(Wrong) as rig:
        with pytest.raises(ModelFailed, match=r"state 'S_OUT' has shape \[1, 2\], expected \[1, 1\]"):
            await rig.ask(1, 1, "s")


@pytest.mark.clause("TR-C9")
@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        (Sequences("direct", controls=(Control("NOSUCH", "start"),)), "input 'NOSUCH' of INT32, .* has none"),
        (Sequences("direct", controls=(Control("START", "start", DataType.FP32),)), "of FP32, .* INT32"),
        (Sequences("direct", states=(SequenceState("IN", "S_OUT", DataType.INT64, (1,)),)), "output 'S_OUT'"),
    ],
)
async def test_a_model_without_the_tensors_of_its_sequences(sequences, words):
    with pytest.raises(LoadFailed, match=words):
        SequenceEngine(ID, [ByRow()], ModelConfig(sequences=sequences), clock=lambda: 0.0, emit=print)


class Asking(FakeRunner):
    """Handed requests one by one; asks for each again until it has counted its number down."""

    signature = Signature((spec("IN"), spec("START", DataType.INT32)), (spec("SUM"),), batched=True)
    sequences = Sequences("oldest", candidates=4, controls=(FLAGS[0],), iterative=True)

    def __init__(self):
        super().__init__()
        self.left = {}
        self.asked = []

    async def answer(self, requests):
        await asyncio.sleep(0)
        return [self._answer(request) for request in requests], 1e-3

    def _answer(self, request) -> Answer | SalverError:
        values = {t.name: t.array.item() for t in request.inputs}
        id = request.parameters["sequence_id"]
        assert values["START"] == request.parameters["sequence_start"]
        if values["START"]:
            self.left[id] = values["IN"]
        if values["IN"] < 0:
            return ModelFailed("poison")
        self.asked.append(id)
        self.left[id] -= 1
        if self.left[id] > 0:
            return Answer({}, again=True)
        return Answer({"SUM": np.array([[values["IN"]]])})


@pytest.mark.clause("TR-S5")
async def test_a_request_is_run_until_the_model_is_done_with_it():
    async with Rig(Asking, rows=2) as rig:
        assert await asyncio.gather(*(rig.ask(None, n) for n in (3, 1, 2))) == [3, 1, 2]
        assert len(rig.runners[0].asked) == 6
        assert len(set(rig.runners[0].asked)) == 3
        assert rig.slots == (0, 0)
        with pytest.raises(ModelFailed, match="poison"):
            await rig.ask(None, -1)
        assert rig.slots == (0, 0)


@pytest.mark.clause("TR-S5")
async def test_a_sequence_that_iterates_has_one_request():
    async with Rig(Asking) as rig:
        asked = rig.begin(7, 1_000_000, "s")
        await turns()
        with pytest.raises(InvalidInput, match="must specify the START flag"):
            await rig.ask(7, 1)
        restart = rig.begin(7, 3, "s")
        await turns()
        asked.cancel()
        assert await restart == 3
        assert rig.slots == (0, 0)


@pytest.mark.clause("TR-S5")
async def test_a_caller_that_leaves_ends_the_iteration():
    async with Rig(Asking) as rig:
        asked = rig.begin(None, 1_000_000)
        await turns(50)
        asked.cancel()
        await turns()
        assert rig.slots == (0, 0)
        count = len(rig.runners[0].asked)
        await turns()
        assert len(rig.runners[0].asked) == count


@pytest.mark.clause("TR-S5")
async def test_only_sequences_that_iterate_are_asked_again():
    class Plain(Asking):
        sequences = Sequences("oldest", controls=(FLAGS[0],))

    async with Rig(Plain) as rig:
        with pytest.raises(ModelFailed, match="wants a request once more"):
            await rig.ask(1, 3, "s")
