"""``on-error`` and ``time-share`` of steps: what stands in for a step that fails or is late."""

# ruff: noqa: E501  # a case is easier to read in one line

import asyncio
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from pipeline_graphs import planned

from salver.features.pipelines import planning
from salver.features.pipelines.local import LocalPipeline
from salver.features.pipelines.served import PipelineLoader
from salver.features.pipelines.steps.step import Step, step_class
from salver.words.artifacts import Manifest
from salver.words.errors import DeadlineExceeded, InvalidInput, LoadFailed, ModelFailed
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

#: Look-up in a store, which is light or heavy; what stands in for it; and a step behind it.
LOOKUP = """
[inputs]
id = "INT64[-1]"
[steps.found]
use = "{use}"
on-error = {{ default = {{ balance = -1.5, plan = "none" }} }}
[steps.scaled]
use = "cast"
to = "FP64"
inputs = {{ values = "found.balance" }}
[outputs]
balance = "scaled.values"
plan = "found.plan"
"""
SPARE = """
[inputs]
id = "INT64[-1]"
[steps.spare]
use = "spare"
[steps.found]
use = "heavy"
inputs = {{ id = "id" }}
on-error = {{ step = "spare" }}
{share}
[outputs]
balance = "found.balance"
plan = "found.plan"
{more}
"""
GATE = threading.Event()
RUNS = []


class Light(Step, frozen=True):
    """Look-up that knows even ids, refuses odd ones, breaks for those below zero and waits for 100."""

    inputs: ClassVar = {"id": "INT64[rows]"}
    outputs: ClassVar = {"balance": "FP32[rows]", "plan": "BYTES[rows]"}

    def open(self, folder):
        return self.found

    def found(self, arrays):
        ids = arrays["id"]
        RUNS.append((type(self).__name__, ids.tolist()))
        if (ids < 0).any():
            raise ValueError("the store is broken")
        if (ids % 2).any():
            raise InvalidInput("odd ids are unknown")
        if (ids == 100).any():
            GATE.wait(10)
        plans = np.array([b"pro"] * len(ids), object)
        return {"balance": ids.astype(np.float32), "plan": plans}


class Heavy(Light, frozen=True):
    """The same on a thread."""

    is_heavy: ClassVar = True


class Spare(Light, frozen=True):
    """What stands in."""

    def found(self, arrays):
        RUNS.append(("Spare", arrays["id"].tolist()))
        if (arrays["id"] == -7).any():
            raise ModelFailed("nothing is left")
        return {
            "balance": np.full(len(arrays["id"]), 9, np.float32),
            "plan": np.array([b"old"] * len(arrays["id"]), object),
        }


class NoModels:
    """Inner client without models."""

    def hold(self, models):
        return self

    def release(self):
        pass


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    own = {"light": Light, "heavy": Heavy, "spare": Spare}
    monkeypatch.setattr(planning, "step_class", lambda name: own.get(name) or step_class(name))
    GATE.clear()
    RUNS.clear()
    yield
    GATE.set()


@pytest.fixture
async def load(tmp_path):
    loaded = []

    async def load(text):
        (tmp_path / "pipeline.toml").write_text(text)
        loader = PipelineLoader(NoModels(), None, lambda event: None, time.monotonic)
        loaded.append(await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline")))
        return loaded[-1]

    yield load
    GATE.set()
    for servable in loaded:
        await servable.close()


async def ask(servable, *ids, deadline=None):
    request = InferRequest("p", (tensor("id", np.array(ids, np.int64)),))
    response = await servable.infer(request, deadline)
    return {t.name: t.array.tolist() for t in response.outputs}, response.parameters.get("on_error")


@pytest.mark.parametrize("use", ["light", "heavy"])
async def test_constants_stand_in_and_the_answer_says_so(load, use):
    servable = await load(LOOKUP.format(use=use))
    good, broken, bad = await asyncio.gather(ask(servable, 2, 4), ask(servable, -1, 2, 6), ask(servable, 3))
    assert good == ({"balance": [2, 4], "plan": [b"pro", b"pro"]}, None)
    assert broken == ({"balance": [-1.5] * 3, "plan": [b"none"] * 3}, "found: model_failed")
    assert bad == ({"balance": [-1.5], "plan": [b"none"]}, "found: invalid_input")
    assert servable.engine.running == 0


async def test_another_step_stands_in_and_runs_for_that_only(load):
    servable = await load(SPARE.format(share="", more=""))
    assert await ask(servable, 2) == ({"balance": [2.0], "plan": [b"pro"]}, None)
    assert RUNS == [("Heavy", [2])]
    assert await ask(servable, 3, 5) == ({"balance": [9, 9], "plan": [b"old"] * 2}, "found: invalid_input")
    assert RUNS[-1] == ("Spare", [3, 5])
    with pytest.raises(ModelFailed, match="nothing is left"):
        await ask(servable, -7)


async def test_a_step_that_others_read_stands_in_with_what_it_gave(load):
    servable = await load(SPARE.format(share="", more='spare = "spare.balance"'))
    assert (await ask(servable, 3))[0] == {"balance": [9], "plan": [b"old"], "spare": [9]}
    assert RUNS.count(("Spare", [3])) == 1


async def test_a_late_step_leaves_the_time_for_what_stands_in(load):
    """Of an hour it may take a hundred thousandth part."""
    servable = await load(SPARE.format(share="time-share = 0.00001", more=""))
    found = await ask(servable, 100, deadline=time.monotonic() + 3600)
    assert found == ({"balance": [9], "plan": [b"old"]}, "found: deadline_exceeded")


async def test_without_time_nothing_stands_in_and_nothing_runs(load):
    servable = await load(LOOKUP.format(use="light"))
    with pytest.raises(DeadlineExceeded):
        await ask(servable, 3, deadline=time.monotonic() - 1)
    assert not RUNS


async def test_a_caller_who_leaves_gets_no_stand_in(load):
    servable = await load(SPARE.format(share="", more=""))
    task = asyncio.create_task(ask(servable, 100))
    while not RUNS:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert servable.engine.running == 0 and RUNS == [("Heavy", [100])]


def test_a_program_gets_what_a_server_gives(tmp_path):
    for text, spare in ((LOOKUP.format(use="light"), -1.5), (SPARE.format(share="", more=""), 9)):
        (tmp_path / "pipeline.toml").write_text(text)
        pipeline = LocalPipeline(tmp_path)
        assert pipeline.run({"id": np.array([2, 4])})["balance"].tolist() == [2, 4]
        assert pipeline.run({"id": np.array([2, 3])})["balance"].tolist() == [spare, spare]


@pytest.mark.parametrize("axis", ["when", "unless"])
async def test_rows_of_a_condition_are_stood_in_for(load, axis):
    servable = await load(
        '[inputs]\nid = "INT64[-1]"\n[steps.sure]\nuse = "threshold"\nleast = 50\n'
        'inputs = { values = "id" }\n'
        f'[steps.found]\nuse = "light"\ninputs = {{ id = "id" }}\n{axis} = "sure.reached"\n'
        "on-error = { default = { balance = 0.5 } }\n"
        '[steps.both]\nuse = "merge"\ninputs = { first = "found.balance", second = "other.balance" }\n'.replace(
            "[steps.both]",
            '[steps.other]\nuse = "light"\ninputs = { id = "id" }\non-error = { default = { balance = 7 } }\n[steps.both]',
        )
    )
    found, told = await ask(servable, 60, 3, 61)
    assert found == {"merged": [0.5, 7, 0.5] if axis == "when" else [7, 0.5, 7]}
    assert told == "other: invalid_input, found: invalid_input"


HEAD = '[inputs]\nx = "FP32[-1,4]"\n[steps.a]\nmodel = "four"\n'
#: What the file says of `b`, and what is wrong with it.
BROKEN = [
    ('on-error = "skip"', "line 7: step `b`: `on-error` is 'skip'. Write on-error = \"fail\""),
    ("on-error = { default = { y = 0.0 }, step = 'a' }", "`on-error` needs one of `default` and `step`"),
    ("on-error = { defaults = { y = 0.0 } }", "`on-error` is {'defaults'"),
    ("on-error = { default = { z = 0.0 } }", "it has no output `z` (at steps.b.on-error). It has: y"),
    ("on-error = { default = { } }", "nothing stands in for its output y"),
    ("on-error = { default = { y = 'none' } }", "y is 'none', where FP32[-1,4] is wanted"),
    ("on-error = { default = { y = [1, 2, 3] } }", "y is [1, 2, 3], where a row of FP32[-1,4] is wanted"),
    ("on-error = { step = 'c' }", "no step `c` is above it"),
    ("on-error = { step = 'b' }", "no step `b` is above it"),
    (
        "on-error = { step = 'a' }\ninputs = { x = 'x' }\n[steps.c]\nuse = 'cast'\non-error = { step = 'a' }",
        "nothing stands in for its output values",
    ),
    ("time-share = 1.5", "`time-share` is above 0 and at most 1"),
    ("time-share = 'half'", "`time-share` is above 0 and at most 1"),
]


@pytest.mark.parametrize(("rule", "said"), BROKEN)
def test_a_rule_that_does_not_fit_is_refused(rule, said):
    with pytest.raises(LoadFailed) as caught:
        planned(f'{HEAD}[steps.b]\nmodel = "four"\n{rule}\n')
    assert said in str(caught.value)


def test_what_stands_in_has_the_types_and_rows_of_the_step():
    one = '[steps.a]\nmodel = "texts"\n[steps.s]\nuse = "text-normalise"\ninputs = { text = "text" }\n'
    with pytest.raises(LoadFailed, match=r"a\.y for b\.y: FP32\[-1,4\] where FP32\[-1,9\] is wanted"):
        planned(
            '[steps.a]\nmodel = "four"\n[steps.b]\nmodel = "grid"\non-error = { step = "a" }\ninputs = { x = "z" }\n'
        )
    with pytest.raises(LoadFailed, match=r"the request.s rows where the rows with a\.sure are wanted"):
        planned(
            one
            + '[steps.b]\nuse = "text-normalise"\ninputs = { text = "text" }\nwhen = "a.sure"\non-error = { step = "s" }\n[outputs]\na = "a"\n'
        )
    with pytest.raises(LoadFailed, match="takes lists apart or puts rows together"):
        planned('[steps.b]\nuse = "text-split"\non-error = { default = { text = "" } }\n')
