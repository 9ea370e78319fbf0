"""How steps run: the response cache before one, host processes, and what is refused."""

import asyncio
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pipeline_graphs import planned
from running_steps import RUNS, STEPS, answer, loaded, outputs
from waiting import auntil

from salver.features.pipelines import planning
from salver.features.pipelines.local import LocalPipeline, plan_of
from salver.features.pipelines.pipeline_views import viewed
from salver.features.pipelines.served import Surroundings
from salver.features.pipelines.showing import drawn
from salver.features.pipelines.steps.step import step_class
from salver.words.errors import HostDied, InvalidInput, LoadFailed, NotReady
from salver.words.messages import InferResponse, Timing

TOKENIZER = sorted((Path(__file__).parent / "recorded" / "tokenizers").glob("*.json"))[0]


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    monkeypatch.setattr(planning, "step_class", lambda name: STEPS.get(name) or step_class(name))
    RUNS.clear()


class Cache:
    """Response cache of a server: answers by what was asked."""

    def __init__(self):
        self.kept = {}
        self.covered = []

    def cover(self, servable):
        self.covered.append((str(servable.manifest.id), servable.manifest.fingerprint))

        def wrap(infer):
            async def cached(request, deadline=None, sender=None, standing=None):
                inputs = [(t.name, t.array.tolist()) for t in request.inputs]
                key = (servable.manifest.fingerprint, str(inputs), str(request.parameters))
                if key in self.kept:
                    timing = Timing(cache="hit")
                    return InferResponse("", "", self.kept[key], timing=timing)
                response = await infer(request, deadline, sender)
                self.kept[key] = response.outputs
                return InferResponse("", "", response.outputs, timing=Timing(inference=0.5, cache="miss"))

            return cached

        servable.cover(wrap)
        return True

    @property
    def around(self):
        return Surroundings(cover=self.cover)


async def test_each_row_of_a_step_is_computed_once(tmp_path):
    cache = Cache()
    servable = await loaded(tmp_path, '[steps.a]\nuse = "add"\ncache = true\n', cache.around)
    assert outputs(await answer(servable, x=[1, 2, 3])) == {"x": [2, 3, 4]}
    response = await answer(servable, x=[2, 9, 3])
    assert outputs(response) == {"x": [3, 10, 4]}
    assert RUNS == [("+1", [[1], [2], [3]]), ("+1", [[9]])]
    assert outputs(await answer(servable, x=[9])) == {"x": [10]}
    # Of one request, and of all: the explanation of a request, and the figures of the pipeline.
    assert [step[5:] for step in response.timing.steps] == [(3, 2)]
    step = viewed(servable.engine).steps[0]
    assert (step.cache_lookups, step.cache_hits) == (7, 3)
    with pytest.raises(InvalidInput):
        await answer(servable, x=[-1])
    await servable.close()


async def test_what_depends_on_other_rows_is_kept_as_a_whole(tmp_path):
    """Tokens are padded to the longest text of a request."""
    cache = Cache()
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.json")
    text = '[steps.w]\nuse = "where"\nplacement = "thread"\ncache = true\n'
    text += '[steps.o]\nuse = "tokenize"\ncache = true\ninputs = { text = "text" }\n'
    text += '[outputs]\nlength = "w.length"\nids = "o.input_ids"\n'
    servable = await loaded(tmp_path, text, cache.around)
    steps = {}
    for texts in ([b"a b", b"a"], [b"a", b"a b"], [b"a b", b"a"]):
        steps = {step[0]: step[5:] for step in (await answer(servable, text=texts)).timing.steps}
    assert steps == {"w": (2, 2), "o": (1, 1)}
    assert {step.name: (step.cache_lookups, step.cache_hits) for step in viewed(servable.engine).steps} == {
        "w": (6, 4),
        "o": (3, 1),
    }
    await servable.close()


async def test_keys_are_of_the_steps_content(tmp_path, caplog):
    fingerprints = []
    for more in ("", "", "by = 2\n"):
        cache = Cache()
        await (await loaded(tmp_path, f'[steps.a]\nuse = "add"\ncache = true\n{more}', cache.around)).close()
        assert [name for name, _ in cache.covered] == ["p.a:1"]
        fingerprints.append(cache.covered[0][1])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    with caplog.at_level(logging.WARNING):
        servable = await loaded(tmp_path, '[steps.a]\nuse = "add"\ncache = true\n')
    assert "p.a:1 wants a response cache, and this server has none" in caplog.text
    assert outputs(await answer(servable, x=[1])) == {"x": [2]}
    await servable.close()


async def test_a_step_runs_in_processes_and_comes_back(tmp_path):
    text = '[steps.w]\nuse = "where"\nmore = 10\nplacement = "process"\ninstances = 2\n'
    text += '[outputs]\npid = "w.pid"\nl = "w.length"\n'
    servable = await loaded(tmp_path, text)
    found = await asyncio.gather(*(answer(servable, text=[b"x" * n, b""]) for n in range(8)))
    assert [outputs(each)["l"] for each in found] == [[n + 10, 10] for n in range(8)]
    pids = {pid for each in found for pid in outputs(each)["pid"]}
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    assert [step[0] for step in found[0].timing.steps] == ["w"]
    good, bad = await asyncio.gather(
        answer(servable, text=[b"a"]), answer(servable, text=[b"bad"]), return_exceptions=True
    )
    assert outputs(good)["l"] == [11]
    assert isinstance(bad, InvalidInput) and str(bad) == "in pipeline 'p', a bad text"
    with pytest.raises(HostDied):
        await answer(servable, text=[b"die"])
    await auntil(lambda: is_answering(servable))
    await servable.close()


async def is_answering(servable):
    """Whether a host is back."""
    try:
        return outputs(await answer(servable, text=[b"a"]))["l"] == [11]
    except NotReady:
        return False


def test_a_program_runs_such_steps_in_its_own_process(tmp_path):
    (tmp_path / "pipeline.toml").write_text('[steps.w]\nuse = "where"\nplacement = "process"\n')
    assert LocalPipeline(tmp_path).run({"text": np.array([b"abc"], object)})["pid"].tolist() == [os.getpid()]
    assert '│ placement = "process"' in [line.rstrip() for line in drawn(plan_of(tmp_path)[0])]


async def test_a_file_that_a_moved_step_needs_is_missed_at_load(tmp_path):
    with pytest.raises(LoadFailed, match="tokenizer"):
        await loaded(tmp_path, '[steps.t]\nuse = "tokenize"\nplacement = "process"\n')


HEAD = '[inputs]\nx = "FP32[-1,4]"\ny = "FP32[-1]"\nid = "BYTES[-1]"\n'
LOOK_UP = 'use = "look-up"\nsource = "sqlite:a.db"\ntable = "t"\nkey = "id"\ncolumns = { v = "number" }\n'
#: Steps, and what is wrong with how they run.
BROKEN = [
    ('[steps.s]\nuse = "softmax"\ncache = true', "line 7: step `s`: it runs at once, within microseconds"),
    ('[steps.s]\nuse = "softmax"\ninstances = 2', 'or add placement = "thread" if it takes its time'),
    ('[steps.s]\nuse = "softmax"\nplacement = "gpu"', '`placement` is "thread" or "process"'),
    ('[steps.s]\nuse = "softmax"\ncache = 1', "`cache` is true or false"),
    ('[steps.s]\nuse = "softmax"\ninstances = 0', "`instances` is a number from 1 to 65536"),
    ('[steps.s]\nuse = "softmax"\nmax-rows = true', "`max-rows` is a number from 1"),
    ('[steps.s]\nuse = "softmax"\nmax_rows = 2', "unknown option `max_rows` of softmax"),
    ('[steps.s]\nuse = "each"\nplacement = "process"', "it puts rows together or takes them apart"),
    ('[steps.s]\nuse = "add"\ninputs = { x = "y" }\ninstances = 2', "its runs cannot share one process"),
    ('[steps.s]\nuse = "add"\ninputs = { x = "y" }\nmax-rows = 2', "it takes requests whole"),
    ('[steps.s]\nuse = "softmax"\nplacement = "process"\nmax-rows = 2', "it takes requests whole"),
    (f"[steps.s]\n{LOOK_UP}cache = true", "it gives other results at other times"),
    (f'[steps.s]\n{LOOK_UP}placement = "process"', "it cannot run in another process"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_what_cannot_be_is_refused_with_its_key(text, said):
    with pytest.raises(LoadFailed) as caught:
        planned(HEAD + text)
    assert said in str(caught.value), str(caught.value)


async def test_a_model_of_the_server_has_settings_of_its_own(tmp_path):
    told = '[steps.m]\nmodel = "four"\ncache = true\n'
    (tmp_path / "pipeline.toml").write_text(told)
    with pytest.raises(
        LoadFailed, match=r"line 3: .* model of the server.*`response_cache` into the salver.toml"
    ):
        plan_of(tmp_path)
    with pytest.raises(LoadFailed, match="`cache` is its own"):
        await loaded(tmp_path, told)
