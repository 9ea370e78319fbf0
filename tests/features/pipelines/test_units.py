"""Heavy steps that follow one another run in one call of a thread, and answer as each by itself."""

import asyncio
import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_steps import GATES, RUNS, STEPS, THREADS, answer, loaded, outputs
from waiting import auntil

from salver.features.pipelines import planning, served
from salver.features.pipelines.document import parse
from salver.features.pipelines.pipeline_views import viewed
from salver.features.pipelines.steps.step import step_class
from salver.features.pipelines.units import units
from salver.words.errors import DeadlineExceeded, InvalidInput, ModelFailed

HEAVY, LIGHT, WIDE = "add", "light", "wide"


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    monkeypatch.setattr(planning, "step_class", lambda name: STEPS.get(name) or step_class(name))
    RUNS.clear()
    THREADS.clear()
    GATES.update(open=threading.Event())
    yield
    GATES["open"].set()


def chain(*uses, more=None):
    """A step for each letter a, b, …, which reads the one above it."""
    more = more or {}
    names = "abcdefgh"[: len(uses)]
    text = "".join(
        f'[steps.{n}]\nuse = "{use}"\n{more.get(n, "")}\n' for n, use in zip(names, uses, strict=True)
    )
    return f'[inputs]\nx = "FP32[-1]"\n{text}{more.get("end", "")}\n'


def found(text, folder):
    plan = planning.plan("p", parse(text.encode(), "pipeline.toml"), folder, lambda table: None)
    return [[node.name for node in unit] for unit in units(plan)]


@pytest.mark.parametrize(
    ("uses", "more", "wanted"),
    [
        ([HEAVY, HEAVY], {}, [["a", "b"]]),
        ([HEAVY], {}, []),
        ([LIGHT, HEAVY, LIGHT, LIGHT, HEAVY, LIGHT], {}, [["b", "c", "d", "e"]]),
        ([HEAVY, LIGHT], {}, []),
        ([HEAVY, HEAVY, WIDE, WIDE], {}, [["a", "b"], ["c", "d"]]),
        # An intermediate result may be an output; what another step waits for must not come later for it.
        ([HEAVY, HEAVY], {"end": '[outputs]\na = "a.x"\nb = "b.x"'}, [["a", "b"]]),
        (
            [HEAVY, HEAVY, LIGHT],
            {"c": 'inputs = { x = "a.x" }', "end": '[outputs]\nb = "b.x"\nc = "c.x"'},
            [],
        ),
        ([HEAVY, HEAVY], {"b": 'inputs = { x = "x" }', "end": '[outputs]\na = "a.x"\nb = "b.x"'}, []),
        # What the file says of one step keeps it apart.
        ([HEAVY, HEAVY], {"b": "time-share = 0.5"}, []),
        ([HEAVY, HEAVY], {"a": "on-error = { default = { x = 0.0 } }"}, []),
        ([HEAVY, HEAVY, HEAVY], {"c": "cache = true"}, [["a", "b"]]),
        ([HEAVY, HEAVY, HEAVY], {"a": 'placement = "process"'}, [["b", "c"]]),
        (
            [HEAVY, HEAVY, HEAVY],
            {"c": 'on-error = { step = "a" }', "b": 'inputs = { x = "x" }'},
            [],
        ),
    ],
)
def test_a_unit_is_a_chain_that_nothing_else_waits_for(tmp_path, uses, more, wanted):
    assert found(chain(*uses, more=more), tmp_path) == wanted


def test_conditions_and_lists_are_no_part_of_a_unit(tmp_path):
    text = (
        '[inputs]\nx = "FP32[-1]"\n[steps.sure]\nuse = "threshold"\ninputs = { values = "x" }\n'
        '[steps.a]\nuse = "add"\nwhen = "sure.reached"\ninputs = { x = "x" }\n[steps.b]\nuse = "add"\n'
        '[steps.m]\nuse = "merge"\ninputs = { first = "b.x", second = "x" }\n'
    )
    assert found(text, tmp_path) == []


@settings(deadline=None)
@given(
    st.lists(st.sampled_from((HEAVY, LIGHT, WIDE)), min_size=1, max_size=7),
    st.lists(st.lists(st.integers(-2, 6).map(float), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_units_answer_as_their_steps_do(tmp_path_factory, uses, requests):
    """Also what is refused and what raises, each request for itself."""
    folder = tmp_path_factory.mktemp("p")

    async def answers(is_apart):
        with pytest.MonkeyPatch.context() as patch:
            if is_apart:
                patch.setattr(served, "units", lambda plan: ())
            servable = await loaded(folder, chain(*uses))
        try:
            told = await asyncio.gather(*(answer(servable, x=x) for x in requests), return_exceptions=True)
        finally:
            await servable.close()
        return [(type(t), str(t)) if isinstance(t, Exception) else outputs(t) for t in told]

    assert asyncio.run(answers(False)) == asyncio.run(answers(True))


async def test_a_chain_takes_one_call_of_a_thread_and_tells_the_time_of_each_step(tmp_path):
    text = chain(HEAVY, LIGHT, HEAVY, HEAVY, more={"end": '[outputs]\nx = "d.x"\nfirst = "a.x"'})
    servable = await loaded(tmp_path, text)
    response = await answer(servable, x=[1, 2])
    assert outputs(response) == {"x": [6, 8], "first": [2, 3]}
    assert RUNS == [("+1", [[1, 2]]), ("+1", [[4, 6]]), ("+1", [[5, 7]])]
    assert len(THREADS) == 1 and [step.name for step in servable.engine.graph.steps] == ["a + b + c + d"]
    times = response.timing.steps
    assert [step[0] for step in times] == ["a", "b", "c", "d"]
    assert all(one[2] == other[1] for one, other in itertools.pairwise(times))
    assert all(step[1] + step[3] + step[4] <= step[2] + 1e-9 for step in times)
    assert [(step.name, step.runs) for step in viewed(servable.engine).steps] == [(n, 1) for n in "abcd"]
    await servable.close()


async def test_many_rows_of_wide_steps_run_side_by_side(tmp_path):
    servable = await loaded(tmp_path, chain(WIDE, WIDE))
    response = await answer(servable, x=[*range(7)])
    assert outputs(response) == {"x": [n + 2.0 for n in range(7)]}
    assert [step[0] for step in response.timing.steps] == ["a", "b"] and len(RUNS) == 8
    await servable.close()


async def test_a_unit_on_the_items_of_lists_may_have_none(tmp_path):
    text = (
        '[inputs]\nxs = "FP32[-1,2]"\nof = "FP32[-1]"\n[steps.n]\nuse = "cast"\nto = "INT64"\n'
        'inputs = { values = "of" }\n[steps.e]\nuse = "each"\ninputs = { list = "xs", count = "n" }\n'
        '[steps.a]\nuse = "add"\ninputs = { x = "e" }\n[steps.b]\nuse = "add"\n'
        '[steps.r]\nuse = "reduce"\nby = "sum"\n'
    )
    servable = await loaded(tmp_path, text)
    assert "a + b" in [step.name for step in servable.engine.graph.steps]
    assert outputs(await answer(servable, xs=[[1, 2], [3, 4]], of=[2, 1])) == {"value": [7, 5]}
    nothing = await answer(servable, xs=[[1, 2]], of=[0])
    assert outputs(nothing) == {"value": [0]} and "a" not in [step[0] for step in nothing.timing.steps]
    await servable.close()


async def test_a_request_fails_alone_and_the_failure_is_its_steps(tmp_path):
    servable = await loaded(tmp_path, chain(HEAVY, HEAVY, more={"a": 'gate = "open"'}))
    first = asyncio.create_task(answer(servable, x=[9]))
    await auntil(lambda: len(RUNS) == 1)
    # The second step gets 0 to refuse, and -2 to break: one more than the first.
    tasks = [asyncio.create_task(answer(servable, x=x)) for x in ([1], [-2], [-3], [5])]
    await auntil(lambda: servable.engine.running == 5)
    GATES["open"].set()
    good, broken, later, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert outputs(await first) == {"x": [11]} and outputs(good) == {"x": [3]} and outputs(last) == {"x": [7]}
    assert isinstance(broken, InvalidInput | ModelFailed) and isinstance(later, ModelFailed)
    assert "model 'a' raised ValueError: broken" in str(broken)
    assert "model 'b' raised ValueError: broken" in str(later)
    assert {step.name: step.failures for step in viewed(servable.engine).steps} == {"a": 1, "b": 1}
    await servable.close()


async def test_nobody_waits_between_two_steps_for_what_is_late_or_gone(tmp_path):
    servable = await loaded(tmp_path, chain(HEAVY, HEAVY, more={"a": 'gate = "open"', "b": "by = 2"}))
    late = asyncio.create_task(answer(servable, time.monotonic() + 0.05, x=[1]))
    with pytest.raises(DeadlineExceeded):
        await late
    gone, stays = (asyncio.create_task(answer(servable, x=[x])) for x in (2, 3))
    await auntil(lambda: servable.engine.running == 2)
    gone.cancel()
    await auntil(gone.done)
    GATES["open"].set()
    assert outputs(await stays) == {"x": [6]}
    assert [run for run in RUNS if run[0] == "+2"] == [("+2", [[4]])]
    await servable.close()
