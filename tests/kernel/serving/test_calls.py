"""What models ask of the server: Triton's words, spans, and who would wait for ever (TR-S7)."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.backends.callbacks import ModelCommand
from salver.features.telemetry.own_metrics import OwnMetrics
from salver.kernel.engine.ports import CallTerms
from salver.kernel.serving.model_callbacks import ModelCallbacks, deadlocked
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, ModelFailed, NotFound, NotReady, OnlyStreams, Unsupported
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor

A, B, C = (ModelId(name, "1") for name in "abc")
PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class World:
    """Models that answer with what they are told to, or wait."""

    def __init__(self, said=None):
        self.said, self.calls, self.opened, self.wishes = said, [], asyncio.Event(), []

    def find(self, model, version):
        if model == "gone":
            raise NotFound("Request for unknown model: 'gone' is not found")
        return ModelId(model, version or "1")

    async def infer(self, request, call):
        self.calls.append(call)
        if self.said is None:
            await self.opened.wait()
        if isinstance(self.said, Exception):
            raise self.said
        return InferResponse(request.model, "1", ())

    async def stream(self, request, call, write):
        await write(await self.infer(request, call))

    async def answers(self, model, version=""):
        return version == "2"

    async def load(self, model, order):
        self.wishes.append((model, order))

    async def unload(self, model, *, dependents=False):
        self.wishes.append((model, dependents))


def calls_of(world):
    return ModelCallbacks(world, lambda: world, lambda: 5.0, lambda: "c" * 16, OwnMetrics())


def asking(model="b", **fields):
    return InferRequest(model, (tensor("x", np.zeros(1)),), **fields)


RUN = CallTerms(None, True)


@pytest.mark.clause("TR-S7")
@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ({}, set()),
        ({A: [set()]}, set()),
        ({A: [{A}]}, {A}),
        ({A: [{A}, set()]}, set()),
        ({A: [{A}, {A}]}, {A}),
        ({A: [{B}], B: [{A}]}, {A, B}),
        ({A: [{B}], B: [{C}], C: [set()]}, set()),
        ({A: [{B}], B: [{C}], C: [{C}]}, {A, B, C}),
        ({A: [{C}]}, set()),  # which is no model of host processes
    ],
)
def test_who_waits_for_ever(hosts, found):
    assert deadlocked(hosts) == found


@pytest.mark.clause("TR-S7")
@given(st.dictionaries(st.sampled_from([A, B, C]), st.lists(st.sets(st.sampled_from([A, B, C])), min_size=1)))
def test_whoever_is_stuck_waits_for_the_stuck_alone(hosts):
    found = deadlocked(hosts)
    assert all(waits & found for id in found for waits in hosts[id])
    free = set(hosts) - found  # and it is the most that can be said
    assert all(any(not waits & found for waits in hosts[id]) for id in free)


@pytest.mark.clause("TR-S7")
@pytest.mark.parametrize(
    ("model", "said", "kind", "text"),
    [
        (
            "gone",
            True,
            NotReady,
            "Model gone - Error when running inference: Failed for execute the inference request. "
            "Model 'gone' is not ready.",
        ),
        ("b", OnlyStreams("no"), Unsupported, "Please use 'decoupled=True' argument to the 'exec'"),
        (
            "b",
            InvalidInput("unexpected shape"),
            InvalidInput,
            "Model b - Error when running inference: unexp",
        ),
        ("b", ModelFailed("its own words"), ModelFailed, "^its own words$"),
    ],
)
async def test_what_goes_wrong_is_said_in_tritons_words(model, said, kind, text):
    asker = calls_of(World(said)).admit(A).enter()
    with pytest.raises(kind, match=text):
        await asker.infer(asking(model), RUN)


@pytest.mark.clause("TR-S7")
async def test_a_models_own_refusal_is_not_dressed_up():
    error = InvalidInput("my own")
    error.is_late = True
    with pytest.raises(InvalidInput, match=r"^my own$"):
        await calls_of(World(error)).admit(A).enter().infer(asking(), RUN)


@pytest.mark.clause("TR-S7")
async def test_a_request_is_below_the_span_in_whose_service_it_is():
    world = World(True)
    asker = calls_of(world).admit(A).enter()
    await asker.infer(asking(trace=PARENT, id="mine"), CallTerms(7.0, True))
    await asker.infer(asking(), CallTerms())
    below, free = world.calls
    assert (below.protocol, below.arrival, below.deadline) == ("bls", 5.0, 7.0)
    assert (below.request_id, below.parent) == ("mine", PARENT)
    assert below.traceparent == f"00-{'a' * 32}-{'c' * 16}-01"
    assert (free.parent, free.traceparent, free.request_id, free.deadline) == ("", "", "c" * 16, None)


@pytest.mark.clause("TR-S7")
async def test_a_circle_is_refused_and_opens_again():
    world = World()
    calls = calls_of(world)
    a, b = calls.admit(A).enter(), calls.admit(B).enter()
    waits = asyncio.ensure_future(a.infer(asking("b"), RUN))
    await asyncio.sleep(0)
    with pytest.raises(
        NotReady, match=r"model 'b' would wait for itself: every instance that could answer 'a'"
    ):
        await b.infer(asking("a"), RUN)
    with pytest.raises(NotReady, match="would wait for itself"):
        await b.stream(asking("b"), RUN, None)
    beside = asyncio.ensure_future(b.infer(asking("a"), CallTerms()))  # nobody's run waits for that
    second = calls.admit(A).enter()  # one more instance, and it is no circle
    through = asyncio.ensure_future(b.infer(asking("a"), RUN))
    await asyncio.sleep(0)
    assert len(world.calls) == 3
    second.leave()
    world.opened.set()
    await asyncio.gather(waits, beside, through)
    a.leave()
    b.leave()
    assert repr(calls) == "<ModelCallbacks of none>"


@pytest.mark.clause("TR-S7")
async def test_models_are_managed_by_who_manages_them():
    world = World(True)
    asker = calls_of(world).admit(A).enter()
    order = LoadOrder("{}")
    assert await asker.manage(ModelCommand("load", "x", order=order))
    assert await asker.manage(ModelCommand("unload", "x", dependents=True))
    assert [await asker.manage(ModelCommand("is_ready", "x", version)) for version in "12"] == [False, True]
    assert world.wishes == [("x", order), ("x", True)]
