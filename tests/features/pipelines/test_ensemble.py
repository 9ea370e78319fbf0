"""Ensembles against direct evaluation, and under all that goes wrong meanwhile."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest
from ensemble_steps import Lease, Model, Pieces, chain, count, rows, step
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import auntil

from salver.features.pipelines.ensemble import DecoupledEnsemble
from salver.features.pipelines.ensemble import Ensemble as Engine
from salver.features.pipelines.graph import Member, connect
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import Inner
from salver.words.artifacts import Batching, Ensemble, EnsembleStep, ModelConfig, Reshape
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotReady,
    OnlyStreams,
    Overloaded,
    SalverError,
)
from salver.words.events import BatchRan, Served
from salver.words.messages import (
    ANYBODY,
    InferRequest,
    Insight,
    ModelId,
    RequestedOutput,
    Standing,
    TensorSpec,
)
from salver.words.tensor import DataType, tensor

PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class World:
    """A server of some models and one ensemble of them."""

    def __init__(self, models, *steps, now=100.0, **config):
        self.models, self.now, self.events = models, now, []
        self.bus = Bus([self])
        numbers = iter(range(1, 1000))
        door = DataPlane(RequestPath(self, self.bus.emit, lambda: self.now, lambda: f"{next(numbers):016x}"))
        most = config.pop("max_inflight_requests", 0)
        self.config = ModelConfig(ensemble=Ensemble(steps, most), **config)
        pairs = self.config.ensemble.models
        held = Inner(lambda: door).hold(pairs)
        members = {
            pair: Member(held.signature(*pair), held.capabilities(*pair).is_decoupled) for pair in pairs
        }
        graph = connect("e", self.config, members)
        make = DecoupledEnsemble if graph.is_decoupled else Engine
        self.engine = make(ModelId("e", "3"), graph, held, self.config, lambda: self.now, self.bus.emit)

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        self.models[name].leases += 1
        return Lease(self.models[name], ModelId(name, version or "1"))

    def observe(self, events):
        self.events += events

    def seen(self, kind):
        self.bus.flush()
        return [event for event in self.events if type(event) is kind]

    async def ask(self, *outputs, deadline=None, standing=ANYBODY, sender=None, parameters=None, **arrays):
        request = InferRequest(
            "e",
            tuple(tensor(name, array) for name, array in arrays.items()),
            id="mine",
            outputs=tuple(map(RequestedOutput, outputs)),
            parameters=parameters or {},
            trace=PARENT,
            request_id="r1",
        )
        return await self.engine.infer(request, deadline, sender, standing)

    async def stream(self, deadline=None, **arrays):
        request = InferRequest("e", tuple(tensor(n, a) for n, a in arrays.items()), id="mine", trace=PARENT)
        async with aclosing(self.engine.stream(request, deadline)) as pieces:
            return [piece async for piece in pieces]


def numbers(response, name="c"):
    (found,) = [t.array for t in response.outputs if t.name == name]
    return found.ravel().tolist()


DOUBLE = step("double", "x=a", "y=b")
ADD = step("one", "x=b", "y=c")


# -- what is answered --------------------------------------------------------------------------


@st.composite
def graphs(draw):
    """Models of one to three inputs and one or two outputs, in any order, and how long each takes."""
    tensors = ["t0", "t1"]
    steps = []
    for index in range(draw(st.integers(1, 7))):
        reads = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
        writes = [f"s{index}_{n}" for n in range(draw(st.integers(1, 2)))]
        steps.append((reads, writes, draw(st.integers(0, 3))))
        tensors += writes
    return steps, draw(st.permutations(range(len(steps)))), draw(st.randoms())


def sums(index, count):
    def function(**arrays):
        total = sum(arrays[name] * (n + 1) for n, name in enumerate(sorted(arrays))) + index
        return {f"o{n}": total * (n + 1) for n in range(count)}

    return function


@pytest.mark.clause("TR-S6")
@settings(max_examples=60)
@given(graphs())
def test_any_graph_answers_as_its_models_do_one_by_one(graph):
    made, order, random = graph
    models, steps, values = {}, [], {"t0": rows(1, 2), "t1": rows(-3, 5)}
    for index, (reads, writes, turns) in enumerate(made):
        ins = [f"i{n}" for n in range(len(reads))]
        outs = [f"o{n}" for n in range(len(writes))]
        function = sums(index, len(writes))
        models[f"m{index}"] = Model(function, " ".join(ins), " ".join(outs), turns=turns)
        pairs = (zip(ins, reads, strict=True), zip(outs, writes, strict=True))
        steps.append(EnsembleStep(f"m{index}", "", *map(dict, pairs)))
        said = function(**{name: values[tensor] for name, tensor in zip(ins, reads, strict=True)})
        values |= dict(zip(writes, said.values(), strict=True))
    read = {name for reads, _, _ in made for name in reads}
    outputs = [name for name in values if name not in read and name not in ("t0", "t1")]
    wanted = [name for name in outputs if random.random() < 0.6]

    async def ask():
        world = World(models, *[steps[index] for index in order])
        given = {spec.name: values[spec.name] for spec in world.engine.signature.inputs}
        return await world.ask(*wanted, **given)

    response = asyncio.run(ask())
    assert {t.name for t in response.outputs} == set(wanted or outputs)
    for found in response.outputs:
        np.testing.assert_array_equal(found.array, values[found.name])
    asked = {index for index, model in enumerate(models.values()) if model.asked}
    needed, want = set(), set(wanted or outputs)
    for index in reversed(range(len(made))):
        if want & set(made[index][1]):
            needed.add(index)
            want |= set(made[index][0])
    assert asked == needed
    assert all(len(model.asked) <= 1 for model in models.values())


@pytest.mark.clause("TR-S6")
async def test_arrays_are_handed_on_as_they_are():
    world = World(chain(double=Model(lambda x: x), one=Model(lambda x: x)), DOUBLE, ADD)
    given = rows(1, 2, 3)
    response = await world.ask(a=given)
    first, second = world.models["double"].asked[0], world.models["one"].asked[0]
    for array in (first.inputs[0].array, second.inputs[0].array, response.outputs[0].array):
        assert np.shares_memory(array, given)


@pytest.mark.clause("TR-S6")
async def test_steps_that_are_ready_run_at_the_same_time():
    models = {name: Model(lambda x: x) for name in ("left", "right")} | {"sum": Model(np.add, "x1 x2")}
    models["sum"].function = lambda x1, x2: x1 + x2
    steps = (
        step("left", "x=a", "y=b"),
        step("right", "x=a", "y=c"),
        step("sum", "x1=b x2=c", "y=d"),
    )
    world = World(models, *steps)
    for name in ("left", "right"):
        models[name].gate = asyncio.Event()
    task = asyncio.create_task(world.ask(a=rows(1)))
    await auntil(lambda: models["left"].running and models["right"].running)
    assert not models["sum"].asked
    models["right"].gate.set()
    models["left"].gate.set()
    assert numbers(await task, "d") == [2.0]


@pytest.mark.clause("TR-S6")
async def test_what_a_request_says_reaches_its_models():
    world = World(chain(), DOUBLE, ADD)
    standing = Standing("acme", 1)
    given = {"priority": 1, "mine": "x", "timeout": 9_000_000}
    world.models["double"].function = lambda x: setattr(world, "now", 103.0) or x * 2
    response = await world.ask(a=rows(1), deadline=109.0, standing=standing, sender="s", parameters=given)
    assert (response.model, response.version, response.id) == ("e", "3", "mine")
    for name, left in (("double", 9_000_000), ("one", 6_000_000)):
        (request,) = world.models[name].asked
        (how,) = world.models[name].how
        assert (request.id, request.parameters) == ("mine", {**given, "timeout": left})
        assert how == (109.0, "s", standing)
    assert response.timing.inference == 3.0


@pytest.mark.clause("TR-R20")
async def test_replies_say_of_which_sequence_they_are():
    world = World(chain(), DOUBLE, ADD)
    response = await world.ask(a=rows(1))
    assert response.parameters == {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    said = {"sequence_id": 7, "sequence_start": True}
    response = await world.ask(a=rows(1), parameters=said)
    assert response.parameters == {"sequence_id": 7, "sequence_start": True, "sequence_end": False}
    assert world.models["one"].asked[-1].parameters == said
    world.models["double"].parameters = {"sequence_id": 9, "sequence_end": True}
    response = await world.ask(a=rows(1), parameters=said)
    expected = {"sequence_id": 9, "sequence_start": False, "sequence_end": True}
    assert world.models["one"].asked[-1].parameters == expected
    assert response.parameters == expected


async def test_a_span_and_a_count_for_each_step():
    world = World(chain(), DOUBLE, ADD)
    await world.ask(a=rows(1, 2))
    first, second = world.seen(Served)
    assert [(e.model, e.protocol, e.parent, e.request_id, e.rows) for e in (first, second)] == [
        ("double", "ensemble", PARENT, "r1", 2),
        ("one", "ensemble", PARENT, "r1", 2),
    ]
    spans = {first.traceparent, second.traceparent, PARENT}
    assert len(spans) == 3
    assert {span[:36] + span[52:] for span in spans} == {PARENT[:36] + PARENT[52:]}
    (run,) = world.seen(BatchRan)
    assert (run.model, run.version, run.rows, run.requests, run.ok) == ("e", "3", 2, 1, True)
    assert (run.duration, run.merge, run.split) == (4.0, 1.0, 1.0)


@pytest.mark.clause("TR-S6")
async def test_ensembles_of_ensembles():
    inner = World(chain(), DOUBLE, ADD)
    inner.engine.leases = 0
    outer = World({"inner": inner.engine, "one": Model(lambda x: x + 1)}, step("inner", "a=a", "c=b"), ADD)
    assert numbers(await outer.ask(a=rows(1, 2))) == [4.0, 6.0]
    (served,) = [e for e in outer.seen(Served) if e.model == "inner"]
    assert {e.parent for e in inner.seen(Served)} == {served.traceparent}
    assert served.parent == PARENT


@pytest.mark.clause("TR-C3")
async def test_a_plain_model_gets_a_single_row_without_its_batch_dimension():
    plain = Model(lambda x: x * 2, shape=(3,))
    world = World(
        {"plain": plain, "one": Model(lambda x: x + 1)},
        step("plain", "x=a", "y=b"),
        ADD,
        inputs=(TensorSpec("a", DataType.FP64, (-1, 3)),),
        outputs=(TensorSpec("c", DataType.FP64, (-1, 3)),),
    )
    response = await world.ask(a=np.ones((1, 3)))
    assert plain.asked[0].inputs[0].shape == (3,)
    assert response.outputs[0].array.tolist() == [[3.0, 3.0, 3.0]]


@pytest.mark.clause("TR-C4")
async def test_callers_may_see_other_shapes():
    world = World(
        chain(),
        DOUBLE,
        ADD,
        inputs=(TensorSpec("a", DataType.FP64, (-1, 1, 2)),),
        outputs=(TensorSpec("c", DataType.FP64, (-1, 2, 1)),),
        reshape=Reshape({"a": (-1, 2)}, {"c": (-1, 2)}),
    )
    response = await world.ask(a=np.ones((4, 1, 2)))
    assert world.models["double"].asked[0].inputs[0].shape == (4, 2)
    assert response.outputs[0].shape == (4, 2, 1)


async def test_steps_that_run_on_a_condition():
    kinds = {"flag": DataType.BOOL}
    models = {
        "score": Model(lambda x: {"y": x, "flag": x > 1}, outs="y flag", kinds=kinds),
        "high": Model(lambda x: x * 100),
        "low": Model(lambda x: -x),
    }
    steps = (
        step("score", "x=a", "y=b flag=sure"),
        step("high", "x=b", "y=c", when="sure"),
        step("low", "x=b", "y=c", unless="sure"),
    )
    world = World(models, *steps)
    assert numbers(await world.ask(a=rows(2, 0))) == [200.0, 0.0]
    assert (len(models["high"].asked), len(models["low"].asked)) == (1, 0)
    assert numbers(await world.ask(a=rows(1, 0))) == [-1.0, 0.0]
    assert (len(models["high"].asked), len(models["low"].asked)) == (1, 1)
    alone = World(models, *steps[:2])
    response = await alone.ask(a=rows(0))
    assert response.outputs == ()


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.clause("TR-S6")
async def test_a_request_that_does_not_fit_asks_nobody():
    world = World(chain(), DOUBLE, ADD)
    with pytest.raises(InvalidInput, match=r"^unexpected inference input 'x' for model 'e'"):
        await world.ask(x=rows(1))
    with pytest.raises(InvalidInput, match="unexpected inference output 'nosuch'"):
        await world.ask("nosuch", a=rows(1))
    assert not world.models["double"].asked


@pytest.mark.clause("TR-S6")
async def test_an_error_names_the_ensemble_and_keeps_its_kind():
    world = World(chain(one=Model(lambda x: ModelFailed("boom", fix="mend it"))), DOUBLE, ADD)
    with pytest.raises(ModelFailed) as caught:
        await world.ask(a=rows(1))
    assert str(caught.value) == "in ensemble 'e', boom. mend it"
    (run,) = world.seen(BatchRan)
    assert not run.ok
    assert world.engine.running == 0


@pytest.mark.clause("TR-S6")
async def test_a_branch_that_fails_ends_the_others():
    models = {
        "bad": Model(lambda x: ModelFailed("boom"), turns=3),
        "slow": Model(lambda x: x),
        "sum": Model(None, "x1 x2"),
    }
    models["slow"].gate = asyncio.Event()
    steps = (step("bad", "x=a", "y=b"), step("slow", "x=a", "y=c"), step("sum", "x1=b x2=c", "y=d"))
    world = World(models, *steps)
    with pytest.raises(ModelFailed, match=r"^in ensemble 'e', boom"):
        await world.ask(a=rows(1))
    assert (models["slow"].cancelled, models["slow"].running, models["sum"].asked) == (1, 0, [])
    assert [e.outcome for e in world.seen(Served)] == ["model_failed", "cancelled"]


@pytest.mark.clause("TR-S11")
async def test_a_caller_who_leaves_takes_every_step_along():
    models = {name: Model(lambda x: x) for name in ("left", "right")}
    for model in models.values():
        model.gate = asyncio.Event()
    world = World(models, step("left", "x=a", "y=b"), step("right", "x=a", "y=c"))
    task = asyncio.create_task(world.ask(a=rows(1)))
    await auntil(lambda: all(model.running for model in models.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [model.cancelled for model in models.values()] == [1, 1]


async def test_past_the_deadline_no_step_runs():
    world = World(chain(), DOUBLE, ADD)
    world.models["double"].function = lambda x: setattr(world, "now", 105.0) or x
    with pytest.raises(DeadlineExceeded, match=r"in ensemble 'e', Request timeout expired"):
        await world.ask(a=rows(1), deadline=105.0)
    assert len(world.models["double"].asked) == 1
    assert not world.models["one"].asked


async def test_an_ensemble_may_have_a_deadline_of_its_own():
    world = World(chain(), DOUBLE, ADD, timeout_ms=2000)
    await world.ask(a=rows(1))
    assert world.models["one"].how[0][0] == 102.0


@pytest.mark.clause("TR-C10")
async def test_no_more_requests_of_a_step_than_allowed():
    world = World(chain(), DOUBLE, ADD, max_inflight_requests=2)
    world.models["one"].turns = 5
    await asyncio.gather(*(world.ask(a=rows(n)) for n in range(9)))
    assert (world.models["double"].most_running, world.models["one"].most_running) == (1, 2)
    world.models["double"].gate = asyncio.Event()
    held = [asyncio.create_task(world.ask(a=rows(n))) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="Request timeout expired"):
        await world.ask(a=rows(1), deadline=world.now + 0.001)
    world.models["double"].gate.set()
    await asyncio.gather(*held)


@pytest.mark.clause("TR-C10")
async def test_as_many_as_may_wait_and_no_more():
    world = World(chain(), DOUBLE, ADD, max_inflight_requests=1, batching=Batching(max_queue=2))
    world.models["double"].gate = asyncio.Event()
    held = [asyncio.create_task(world.ask(a=rows(n))) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"Exceeds maximum queue size"):
        await world.ask(a=rows(1))
    world.models["double"].gate.set()
    await asyncio.gather(*held)


@pytest.mark.clause("TR-S6")
async def test_the_models_are_kept_until_the_ensemble_goes():
    world = World(chain(), DOUBLE, ADD)
    assert [model.leases for model in world.models.values()] == [1, 1]
    await world.engine.close()
    assert [model.leases for model in world.models.values()] == [0, 0]
    with pytest.raises(NotReady, match="shutting down"):
        await world.ask(a=rows(1))


# -- any number of responses -------------------------------------------------------------------


def stream_world(*steps, source=count, **more):
    models = chain(source=Pieces(source))
    return World(models, step("source", "x=n", "y=a"), *(steps or (DOUBLE, ADD)), **more)


@pytest.mark.clause("TR-S8")
@pytest.mark.parametrize("many", [0, 1, 2, 70])
async def test_each_response_of_a_decoupled_model_goes_its_own_way(many):
    world = stream_world()
    world.models["double"].turns = 2
    pieces = await world.stream(n=rows(many))
    assert [numbers(piece) for piece in pieces] == [[2.0 * n + 1] for n in range(many)]
    assert {piece.id for piece in pieces} <= {"mine"}
    (run,) = world.seen(BatchRan)
    assert (run.model, run.ok) == ("e", True)


@pytest.mark.clause("TR-S8")
async def test_responses_keep_their_order_however_long_each_takes():
    world = stream_world()
    took = iter((9, 0, 5, 1, 0))

    async def infer(request, deadline=None, sender=None, standing=None, ask=world.models["double"].infer):
        for _ in range(next(took)):
            await asyncio.sleep(0)
        return await ask(request, deadline, sender, standing)

    world.models["double"].infer = infer
    pieces = await world.stream(n=rows(5))
    assert [numbers(piece)[0] for piece in pieces] == [1.0, 3.0, 5.0, 7.0, 9.0]


@pytest.mark.clause("TR-S8")
async def test_decoupled_models_one_after_another():
    models = {"source": Pieces(count), "twice": Pieces(lambda x: [x, x + 0.5]), "one": Model(lambda x: x + 1)}
    steps = (step("source", "x=n", "y=a"), step("twice", "x=a", "y=b"), step("one", "x=b", "y=c"))
    world = World(models, *steps)
    pieces = await world.stream(n=rows(3))
    assert [numbers(piece)[0] for piece in pieces] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


@pytest.mark.clause("TR-S8")
async def test_two_paths_of_one_response_meet_again():
    models = {
        "source": Pieces(count),
        "left": Model(lambda x: x * 10, turns=4),
        "right": Model(lambda x: x + 1),
        "sum": Model(lambda x1, x2: x1 + x2, "x1 x2"),
    }
    steps = (
        step("source", "x=n", "y=a"),
        step("left", "x=a", "y=b"),
        step("right", "x=a", "y=d"),
        step("sum", "x1=b x2=d", "y=c"),
    )
    pieces = await World(models, *steps).stream(n=rows(4))
    assert [numbers(piece)[0] for piece in pieces] == [1.0, 12.0, 23.0, 34.0]


@pytest.mark.clause("TR-S8")
async def test_one_answer_is_not_to_be_had():
    with pytest.raises(OnlyStreams, match="gives any number of responses"):
        await stream_world().ask(n=rows(1))


@pytest.mark.clause("TR-S8")
async def test_an_error_among_the_responses_ends_the_ensemble():
    world = stream_world(source=lambda x: [rows(1), ModelFailed("broke"), rows(2)])
    got = []
    with pytest.raises(ModelFailed, match=r"^in ensemble 'e', broke"):
        request = InferRequest("e", (tensor("n", rows(1)),))
        async with aclosing(world.engine.stream(request)) as pieces:
            async for piece in pieces:
                got.append(numbers(piece)[0])
    assert got in ([], [3.0])
    assert world.engine.running == 0


@pytest.mark.clause("TR-S8")
async def test_a_step_behind_that_fails_ends_the_source():
    world = stream_world()
    world.models["one"].function = lambda x: ModelFailed("boom") if x[0, 0] == 4 else x
    source = world.models["source"]
    source.function = lambda x: (rows(n) for n in range(10_000))
    with pytest.raises(ModelFailed, match="boom"):
        await world.stream(n=rows(1))
    assert source.cancelled == 1
    assert len(world.models["double"].asked) < 100


@pytest.mark.clause("TR-S8")
async def test_a_reader_who_leaves_ends_everything():
    world = stream_world(source=lambda x: (rows(n) for n in range(10_000)))
    request = InferRequest("e", (tensor("n", rows(1)),))
    async with aclosing(world.engine.stream(request)) as pieces:
        async for _ in pieces:
            break
    assert world.models["source"].cancelled == 1
    assert world.engine.running == 0
    assert [model.running for model in world.models.values()] == [0, 0, 0]


@pytest.mark.clause("TR-C10")
async def test_a_slow_reader_holds_up_the_source():
    world = stream_world(source=lambda x: (rows(n) for n in range(10_000)), max_inflight_requests=3)
    request = InferRequest("e", (tensor("n", rows(1)),))
    async with aclosing(world.engine.stream(request)) as pieces:
        await anext(pieces)
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(world.models["double"].asked) < 10


async def test_the_deadline_holds_for_what_follows_a_response():
    world = stream_world()
    world.models["double"].function = lambda x: setattr(world, "now", 200.0) or x
    with pytest.raises(DeadlineExceeded):
        await world.stream(n=rows(3), deadline=150.0)
    assert not world.models["one"].asked


async def test_a_defect_is_not_lost():
    world = stream_world()
    world.models["double"].function = lambda x: x / "nonsense"
    with pytest.raises(SalverError, match="incident"):
        await world.stream(n=rows(1))


async def test_what_it_says_of_itself():
    engine = World(chain(), DOUBLE, ADD).engine
    assert (repr(engine), engine.queued, engine.insight()) == (
        "<Ensemble e:3, 2 steps, 0 running>",
        0,
        Insight(),
    )
