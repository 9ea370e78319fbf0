"""Step models that remember prefixes: the same answers, less work, and nothing of what others sent."""

import asyncio
import time
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.stateful import StatefulSteps
from salver.features.cache.prefixes.building import Prefixes, parse
from salver.features.cache.prefixes.remembering import PrefixStore, RememberingSteps
from salver.features.cache.prefixes.tree import BlockTree
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.transcript import ByteVocabulary
from salver.words.artifacts import Manifest, ModelConfig, Steps
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, ModelId, Signature, Standing, TensorSpec
from salver.words.tensor import DataType, tensor

ID = ModelId("m", "1")
CONTEXT, WIDTH, BLOCK = 48, 8, 4
BIG = 1 << 24


class Attention:
    """A layer of attention, with a place for each token (keys, values), and a state without (a sum)."""

    def __init__(self):
        chance = np.random.default_rng(3)
        self.table = chance.standard_normal((256, WIDTH)).astype("f4")
        self.weights = chance.standard_normal((3, WIDTH, WIDTH)).astype("f4") / 3
        self.tokens = 0
        self.signature = Signature(
            (
                TensorSpec("tokens", DataType.INT64, (-1, -1)),
                TensorSpec("position", DataType.INT64, (-1,)),
                TensorSpec("past", DataType.FP32, (-1, 2, CONTEXT, WIDTH)),
                TensorSpec("sum", DataType.FP32, (-1, WIDTH)),
            ),
            (
                TensorSpec("scores", DataType.FP32, (-1, 256)),
                TensorSpec("past_after", DataType.FP32, (-1, 2, CONTEXT, WIDTH)),
                TensorSpec("sum_after", DataType.FP32, (-1, WIDTH)),
            ),
            batched=True,
        )

    def run(self, inputs):
        past, total, scores = inputs["past"].copy(), inputs["sum"].copy(), []
        for row, tokens in enumerate(inputs["tokens"]):
            self.tokens += len(tokens)
            begin = int(inputs["position"][row])
            x = self.table[tokens]
            past[row, 0, begin : begin + len(tokens)] = x @ self.weights[0]
            past[row, 1, begin : begin + len(tokens)] = x @ self.weights[1]
            keys, values = past[row, :, : begin + len(tokens)]
            seen = np.exp(x[-1] @ self.weights[2] @ keys.T)
            total[row] = total[row] * np.float32(0.9) + x.sum(axis=0)
            scores.append((seen / seen.sum() @ values + total[row]) @ self.table.T)
        return {"scores": np.stack(scores), "past_after": past, "sum_after": total}

    def close(self):
        pass


def store(size=BIG, **options):
    return PrefixStore(BlockTree(size), time.monotonic, **options)


def remembering(kept, program=None):
    steps = StatefulSteps(program or Attention(), "m", 4, CONTEXT)
    return RememberingSteps(ID, steps, BLOCK, kept)


@asynccontextmanager
async def engine_of(model):
    config = ModelConfig(steps=Steps(vocabulary="bytes", max_sequences=4, max_context=CONTEXT, max_chunk=16))
    engine = StepEngine(ID, model, ByteVocabulary(), config, time.monotonic, lambda event: None)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def ask(engine, text, most=4, tenant=""):
    request = InferRequest(
        "m", (tensor("text_input", [text]),), parameters={"temperature": 0.0, "max_tokens": most}
    )
    out = b""
    async with aclosing(engine.stream(request, standing=Standing(tenant))) as answer:
        async for response in answer:
            out += response.outputs[0].array[0]
    return out


async def test_answers_are_those_without_and_only_the_rest_is_read():
    program = Attention()
    model = remembering(store(), program)
    plain = remembering(store(0), Attention())  # reads alike, and keeps nothing
    async with engine_of(model) as engine, engine_of(plain) as other:
        first = "You are a helpful assistant. Hi"
        for text in (first, first + "there", "You are a helpful cat", first):
            assert await ask(engine, text) == await ask(other, text)
        assert plain.counts.known == 0
        # Of the second all but what follows the seventh block; of the third four blocks; of the fourth seven.
        assert model.counts.known == BLOCK * (7 + 4 + 7)
        assert model.counts.read == plain.counts.read - model.counts.known
        before = program.tokens
        await ask(engine, first, most=1)
        assert program.tokens - before == len(first) - 7 * BLOCK


@pytest.mark.parametrize(("is_shared", "known"), [(False, 0), (True, 5 * BLOCK)])
async def test_tenants_know_nothing_of_one_another_unless_the_operator_says_so(is_shared, known):
    model = remembering(store(is_shared=is_shared))
    async with engine_of(model) as engine:
        answer = await ask(engine, "a secret of the first", tenant="one")
        assert await ask(engine, "a secret of the first", tenant="two") == answer
        assert model.counts.known == known
        await ask(engine, "a secret of the first", tenant="one")
        assert model.counts.known == known + 5 * BLOCK


async def test_another_copy_of_a_model_knows_nothing_and_takes_its_blocks_along():
    kept = store()
    old, new = remembering(kept), remembering(kept)
    async with engine_of(new) as after:
        async with engine_of(old) as before:
            answer = await ask(before, "what both are asked")
            assert kept.tree.used
            assert await ask(after, "what both are asked") == answer
            assert new.counts.known == 0
        await ask(after, "what both are asked")
        assert new.counts.known == 4 * BLOCK
        left = kept.tree.used
    assert left and not kept.tree.used


async def test_those_who_leave_let_go_of_their_blocks():
    kept = store()
    model = remembering(kept)
    async with engine_of(model) as engine:
        tasks = [asyncio.create_task(ask(engine, f"{n} leaves early, or not", 20)) for n in range(12)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ask(engine, "the last")
    assert not model._readings and not len(kept.tree)


TEXTS = st.lists(st.text("ab", min_size=1, max_size=40), min_size=1, max_size=10)


@settings(max_examples=10, deadline=None)
@given(texts=TEXTS, size=st.sampled_from([0, 6_000, 20_000, BIG]))
async def test_answers_never_depend_on_what_is_kept(texts, size):
    """Several at once, with room for nothing, for a few blocks, and for all; read alone by another copy."""
    async with engine_of(remembering(store(size))) as engine, engine_of(remembering(store(0))) as other:
        found = await asyncio.gather(*(ask(engine, text, 3) for text in texts * 2))
        alone = [await ask(other, text, 3) for text in texts]
    assert found == alone * 2


def scores_of(model, tokens, known=0, parts=()):
    if known:
        model.resume(2, parts, known)
    for at in range(known, len(tokens), BLOCK):
        scores = model.prefill(2, tokens[at : at + BLOCK])
    model.release(2)
    return scores.tobytes()


def test_a_state_with_places_is_kept_in_parts_and_another_one_whole():
    model = StatefulSteps(Attention(), "m", 4, CONTEXT)
    tokens, parts = np.arange(4 * BLOCK + 1) * 31 % 256, []
    for at in range(0, 4 * BLOCK, BLOCK):
        model.prefill(1, tokens[at : at + BLOCK])
        parts.append(model.save(1, at, at + BLOCK))
    assert [part.shape for part in parts[0]] == [(2, BLOCK, WIDTH), (WIDTH,)]
    expected = scores_of(model, tokens)
    for known in range(1, 5):
        assert scores_of(model, tokens, known * BLOCK, parts[:known]) == expected


class Forgetful(Attention):
    """Its scores depend on what a slot cannot tell: how often it ran."""

    def run(self, inputs):
        found = super().run(inputs)
        return found | {"scores": found["scores"] + np.float32(self.tokens)}


async def test_a_model_that_does_not_go_on_alike_gets_no_cache(caplog):
    model = remembering(store(), Forgetful())
    async with engine_of(model) as engine:
        await ask(engine, "the same prompt")
        await ask(engine, "the same prompt")
    assert model.block == 0 and model.counts.read == 0
    assert "its scores after a known state are other ones" in caplog.text


def wrapped(model, **steps):
    manifest = Manifest(ID, None, "", "", ModelConfig(steps=Steps(vocabulary="bytes", **steps)))
    return Prefixes(store()).wrap(manifest, model)


def test_only_models_that_can_go_on_are_wrapped(caplog):
    class Bare:
        def prefill(self, slot, tokens): ...
        def step(self, slots, tokens): ...
        def release(self, slot): ...
        def close(self): ...

    bare, steps = Bare(), StatefulSteps(Attention(), "m", 4, CONTEXT)
    assert wrapped(bare) is bare and "no methods save and resume" in caplog.text
    assert wrapped(steps, prefix_block=0) is steps
    assert isinstance(wrapped(steps), RememberingSteps)


@pytest.mark.parametrize("settings", ["", "x", "64m,policy=best", "64m,blocks", "0"])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(InvalidInput):
        parse(settings)
