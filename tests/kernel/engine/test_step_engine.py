"""The step engine: answers do not depend on company, slots come back, trouble stays with its sequence."""

import asyncio
import threading
import time
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest
from waiting import PATIENCE_S, auntil

from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.transcript import ByteVocabulary
from salver.words.artifacts import Batching, ModelConfig, Priorities, Steps
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NotReady,
    Overloaded,
    Unsupported,
)
from salver.words.messages import ANYBODY, InferRequest, ModelId, Standing
from salver.words.tensor import tensor


class Chain:
    """The next byte depends on all bytes of the slot: a hash that only the right history gives."""

    def __init__(self):
        self.states = {}
        self.steps = []
        self.released = []
        self.threads = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.shuts_after = 0  # so many steps, the gate; 0 = never
        self.closed = False

    def _after(self, slot, token):
        self.states[slot] = (self.states.get(slot, 7) * 31 + int(token)) % 65521
        scores = np.random.default_rng(self.states[slot]).standard_normal(256).astype("f4")
        scores[:97] = scores[123:] = -30  # letters
        return scores

    def prefill(self, slot, tokens):
        self.threads.add(threading.get_ident())
        self.gate.wait(PATIENCE_S)
        return [self._after(slot, token) for token in tokens][-1]

    def step(self, slots, tokens):
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.gate.wait(PATIENCE_S)
        self.steps.append(slots.tolist())
        if len(self.steps) == self.shuts_after:
            self.gate.clear()
            self.entered.clear()
        return np.stack([self._after(slot, token) for slot, token in zip(slots, tokens, strict=True)])

    def release(self, slot):
        self.released.append(slot)
        self.states.pop(slot, None)

    def close(self):
        self.closed = True


def alone(text, most):
    """What the model says to it by itself, greedily."""
    model = Chain()
    scores = model.prefill(0, text.encode())
    out = b""
    for _ in range(most):
        out += bytes([int(scores.argmax())])
        scores = model.prefill(0, out[-1:])
    return out.decode()


def ask(text, **settings):
    settings = {"temperature": 0.0} | settings
    return InferRequest("m", (tensor("text_input", [text]),), parameters=settings)


@asynccontextmanager
async def engine_of(model=None, config=None, **steps):
    events = []
    model = model or Chain()
    limits = Steps(vocabulary="bytes", **{"max_sequences": 4, "max_context": 300, "max_chunk": 16} | steps)
    config = config or ModelConfig()
    config = ModelConfig(
        steps=limits, batching=config.batching, priorities=config.priorities, timeout_ms=config.timeout_ms
    )
    engine = StepEngine(ModelId("m", "1"), model, ByteVocabulary(), config, time.monotonic, events.append)
    engine.events = events
    await engine.start()
    model.steps.clear()
    model.released.clear()
    model.entered.clear()
    try:
        yield engine
    finally:
        model.gate.set()
        await engine.close()


async def pieces(engine, request, deadline=None, standing=None):
    out = []
    options = {} if standing is None else {"standing": standing}
    async with aclosing(engine.stream(request, deadline, **options)) as answer:
        async for response in answer:
            out.append((response.outputs[0].array[0].decode(), response.parameters.get("finish_reason", "")))
    return out


async def text_of(engine, request, **options):
    return "".join(text for text, _ in await pieces(engine, request, **options))


async def test_tokens_come_one_by_one_and_the_last_says_why():
    async with engine_of() as engine:
        got = await pieces(engine, ask("hello", max_tokens=5))
    assert [finish for _, finish in got] == ["", "", "", "", "length"]
    assert "".join(text for text, _ in got) == alone("hello", 5)


async def test_an_answer_is_the_same_whoever_joins_and_leaves():
    texts = [f"{'word ' * (n % 9)}{n}" for n in range(24)]
    async with engine_of() as engine:

        async def one(index, text):
            await asyncio.sleep(0.002 * (index % 7))
            return await text_of(engine, ask(text, max_tokens=3 + index % 11))

        got = await asyncio.gather(*(one(n, text) for n, text in enumerate(texts)))
        await auntil(lambda: not engine.running)
        widths = {event.sequences for event in engine.events}
    assert got == [alone(text, 3 + n % 11) for n, text in enumerate(texts)]
    assert max(widths) > 1  # they did share steps
    assert len(engine._model.threads) == 1


async def test_draws_depend_on_the_seed_and_not_on_company():
    async with engine_of() as engine:
        wish = {"temperature": 1.5, "top_k": 20, "max_tokens": 12}
        first = await text_of(engine, ask("seed", seed=5, **wish))
        crowd = await asyncio.gather(
            *(text_of(engine, ask("seed", seed=n, **wish)) for n in range(8)),
            *(text_of(engine, ask(f"other {n}", max_tokens=9)) for n in range(6)),
        )
        anew = {await text_of(engine, ask("seed", **wish)) for _ in range(4)}
    assert crowd[5] == first
    assert len(set(crowd[:8])) == 8
    assert len(anew) == 4  # without a seed each draws its own


async def test_a_caller_who_leaves_frees_the_slot_at_the_next_step():
    model = Chain()
    async with engine_of(model, max_sequences=1) as engine:
        model.shuts_after = 1
        leaver = engine.stream(ask("a", max_tokens=200))
        await anext(leaver)
        waiting = asyncio.ensure_future(text_of(engine, ask("b", max_tokens=2)))
        await auntil(lambda: engine.queued)
        assert await asyncio.to_thread(model.entered.wait, 5)
        await leaver.aclose()  # in the middle of a step
        assert model.released == []
        model.gate.set()
        assert await waiting == alone("b", 2)
        assert model.steps == [[0]] * 4  # two of the leaver's, and at once the other's
        await auntil(lambda: model.released == [0, 0])


async def test_a_cancelled_task_gives_its_sequence_up():
    model = Chain()
    async with engine_of(model) as engine:
        model.shuts_after = 1
        task = asyncio.ensure_future(text_of(engine, ask("a", max_tokens=250)))
        await auntil(lambda: engine.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not engine.running
        model.gate.set()
        await auntil(lambda: model.released == [0])


async def test_a_slow_reader_delays_nobody_and_loses_nothing():
    async with engine_of() as engine:
        slow = engine.stream(ask("slow", max_tokens=40))
        got = [(await anext(slow)).outputs[0].array[0].decode()]
        assert await text_of(engine, ask("quick", max_tokens=40)) == alone("quick", 40)
        await auntil(lambda: not engine.running)  # the slow one's tokens wait, its slot is free
        async for response in slow:
            got.append(response.outputs[0].array[0].decode())
    assert "".join(got) == alone("slow", 40)


class Moody(Chain):
    """Raises at some bytes; gives nonsense at others."""

    def prefill(self, slot, tokens):
        if ord("!") in tokens.tolist():
            raise RuntimeError("no shouting")
        return super().prefill(slot, tokens)

    def step(self, slots, tokens):
        if self.broken:
            raise ValueError("broken")
        scores = super().step(slots, tokens)
        scores[tokens == ord("?")] = np.nan
        return scores

    broken = False


async def test_what_a_prompt_does_to_the_model_ends_that_sequence_alone():
    async with engine_of(Moody()) as engine:
        for rows in (1, 2, 4):
            engine._scheduler.pace.stepped(rows, 1e9)  # a chunk may be as long as it likes
        engine._model.gate.clear()
        asked = [asyncio.ensure_future(text_of(engine, ask("steady", max_tokens=100)))]
        await auntil(lambda: engine.running == 1)
        asked += [
            asyncio.ensure_future(text_of(engine, ask(text, max_tokens=100))) for text in ("no!", "?", "calm")
        ]
        await auntil(lambda: engine.queued == 3)
        engine._model.gate.set()
        steady, shout, odd, calm = await asyncio.gather(*asked, return_exceptions=True)
    assert (steady, calm) == (alone("steady", 100), alone("calm", 100))
    assert isinstance(shout, ModelFailed)
    assert "no shouting" in str(shout)
    assert isinstance(odd, ModelFailed)
    assert "not finite" in str(odd)


async def test_a_step_that_raises_ends_its_sequences_and_the_next_ones_run():
    model = Moody()
    async with engine_of(model) as engine:
        model.gate.clear()
        asked = [asyncio.ensure_future(text_of(engine, ask("a", max_tokens=9))) for _ in range(3)]
        await auntil(lambda: engine.running + engine.queued == 3)
        model.broken = True
        model.gate.set()
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(outcome, ModelFailed)
            assert "model 'm' failed in a step: ValueError: broken" in str(outcome)
        model.broken = False
        assert await text_of(engine, ask("b", max_tokens=3)) == alone("b", 3)
        assert [event.ok for event in engine.events].count(False) >= 1


async def test_nobody_runs_past_a_deadline():
    model = Chain()
    async with engine_of(model, max_sequences=1) as engine:
        model.gate.clear()
        now = time.monotonic()
        under_way = asyncio.ensure_future(text_of(engine, ask("a", max_tokens=50), deadline=now + 1))
        waiting = asyncio.ensure_future(text_of(engine, ask("b", max_tokens=50), deadline=now + 1))
        for each in (under_way, waiting):  # while the model hangs in a step
            with pytest.raises(DeadlineExceeded, match="Request timeout expired"):
                await each
        model.gate.set()
        with pytest.raises(DeadlineExceeded):
            await text_of(engine, ask("c"), deadline=now)
        assert await text_of(engine, ask("d", max_tokens=1)) == alone("d", 1)
        assert model.steps == [[0], [0]]  # the one that hung, and the last one's


async def test_the_owners_timeout_is_for_those_who_bring_none():
    async with engine_of(config=ModelConfig(timeout_ms=30)) as engine:
        engine._model.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await text_of(engine, ask("a", max_tokens=50))


async def test_a_full_queue_refuses_at_once():
    model = Chain()
    async with engine_of(model, ModelConfig(batching=Batching(max_queue=2)), max_sequences=1) as engine:
        model.gate.clear()
        asked = []
        for n in range(3):
            asked.append(asyncio.ensure_future(text_of(engine, ask(f"{n}", max_tokens=2))))
            await auntil(lambda n=n: engine.running and engine.queued == n)
        with pytest.raises(Overloaded):
            await text_of(engine, ask("4"))
        model.gate.set()
        assert await asyncio.gather(*asked) == [alone(f"{n}", 2) for n in range(3)]


async def test_levels_of_priority_order_the_queue():
    model = Chain()
    config = ModelConfig(priorities=Priorities(levels=3))
    async with engine_of(model, config, max_sequences=1) as engine:
        model.gate.clear()
        order = []

        async def one(name, priority, granted=None):
            standing = Standing(priority=priority, granted=granted)
            await text_of(engine, ask(name, max_tokens=1), standing=standing)
            order.append(name)

        asked = [asyncio.ensure_future(one("first", 0))]
        await auntil(lambda: engine.running)
        for name, priority in (("low", 3), ("middle", 0), ("high", 1), ("lower", 9)):
            asked.append(asyncio.ensure_future(one(name, priority)))
        asked.append(asyncio.ensure_future(one("bounded", 1, ANYBODY)))  # by the model's default
        await auntil(lambda: engine.queued == 5)
        model.gate.set()
        await asyncio.gather(*asked)
    assert order == ["first", "high", "middle", "bounded", "low", "lower"]


async def test_an_end_token_and_a_stop_text_end_an_answer():
    whole = alone("stop", 30)
    async with engine_of() as engine:
        stopped = await pieces(engine, ask("stop", max_tokens=30, stop=whole[4:7]))
    assert ("".join(t for t, _ in stopped), stopped[-1][1]) == (
        whole[: whole.index(whole[4:7])],
        "stop_sequence",
    )
    async with engine_of(end_token=ord(whole[5])) as engine:
        ended = await pieces(engine, ask("stop", max_tokens=30))
    assert ("".join(t for t, _ in ended), ended[-1][1]) == (whole[: whole.index(whole[5])], "eos_token")


async def test_infer_is_refused_and_names_the_road():
    async with engine_of() as engine:
        with pytest.raises(Unsupported, match=r"answers token by token.*/v2/models/m/generate_stream"):
            await engine.infer(ask("a"))


async def test_closing_ends_what_is_there_and_refuses_what_comes():
    model = Chain()
    async with engine_of(model, max_sequences=1) as engine:
        model.gate.clear()
        asked = [asyncio.ensure_future(text_of(engine, ask("a", max_tokens=90))) for _ in range(2)]
        await auntil(lambda: engine.queued == 1)
        closing = asyncio.ensure_future(engine.close())
        for each in asked:
            with pytest.raises(NotReady, match="was unloaded"):
                await each
        model.gate.set()
        await closing
        assert model.closed
        with pytest.raises(NotReady):
            await text_of(engine, ask("b"))


async def test_events_tell_of_each_step():
    async with engine_of() as engine:
        await text_of(engine, ask("hello", max_tokens=4))
        await auntil(lambda: not engine.running)
        events = engine.events
    assert sum(event.tokens for event in events) == 4
    assert sum(event.prompt_tokens for event in events) == 5
    assert all(event.ok and event.duration >= 0 for event in events)
    assert events[0].gap == 0 and all(event.gap > 0 for event in events[1:])


class Narrow(Chain):
    def step(self, slots, tokens):
        return super().step(slots, tokens)[:, :100]


class Small(Chain):
    def prefill(self, slot, tokens):
        if max(tokens) > 127:
            raise IndexError("index 255 is out of bounds")
        return super().prefill(slot, tokens)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Narrow, r"scores of shape \[1, 100\] where \[1, 256\]"), (Small, r"IndexError.*token 255")],
)
async def test_a_model_of_another_vocabulary_does_not_load(model, reason):
    engine = StepEngine(ModelId("m", "1"), model(), ByteVocabulary(), ModelConfig(), time.monotonic, print)
    with pytest.raises(LoadFailed, match=reason):
        await engine.start()
    await engine.close()
    assert engine._model.closed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 1.5}, "'max_tokens' must be a whole number"),
        ({"max_tokens": True}, "'max_tokens' must be a whole number"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p must be more than 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"stop": ""}, "stop must hold"),
        ({"stop": "x" * 257}, "stop must hold"),
        ({"stop": 3}, "stop must be text, not 3"),
        ({"max_tokens": 1000}, "more than the 300 tokens"),
    ],
)
async def test_settings_out_of_range_are_refused_by_name(settings, reason):
    async with engine_of() as engine:
        with pytest.raises(InvalidInput, match=reason):
            await text_of(engine, ask("a", **settings))


async def test_settings_come_as_inputs_too():
    async with engine_of() as engine:
        inputs = (
            tensor("text_input", ["hello"]),
            tensor("max_tokens", np.array([3], "i4")),
            tensor("temperature", np.array([0], "f4")),
            tensor("stop", ["zzz", "yyy"]),
        )
        assert await text_of(engine, InferRequest("m", inputs)) == alone("hello", 3)
        with pytest.raises(InvalidInput, match="must not be empty"):
            await text_of(engine, ask(""))
        with pytest.raises(InvalidInput, match="more than the 300 tokens"):
            await text_of(engine, ask("a" * 301))
        with pytest.raises(InvalidInput, match="UTF-8"):
            await text_of(engine, InferRequest("m", (tensor("text_input", [b"\xff"]),)))
