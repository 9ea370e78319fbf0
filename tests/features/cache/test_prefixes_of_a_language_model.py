"""SmolLM2 135M with its real weights: cached and uncached answers are equal bit by bit, and cost less."""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from soaking import ONLY

from salver.features.cache.prefixes.remembering import PrefixStore, RememberingSteps
from salver.features.cache.prefixes.tree import BlockTree
from salver.kernel.engine.transcript import TextVocabulary
from salver.words.messages import ModelId

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "smollm2"
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face. Answer in one "
    "short sentence, say so when you do not know, and never repeat the question.<|im_end|>\n"
    "<|im_start|>user\n"
)
END = "<|im_end|>\n<|im_start|>assistant\n"
pytestmark = [pytest.mark.soak, ONLY]


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    found = example("model").Model()
    found.load()
    return found


@pytest.fixture(scope="module")
def vocabulary(model):
    code = example("prepare")
    return TextVocabulary(code.spelt(code.Gguf(code.weights_file()).facts["tokenizer.ggml.tokens"]))


def answer(model, tokens, most=8):
    """Return the tokens and all scores of a greedy answer, read as an engine reads."""
    known = model.recall(0, tokens, "")
    scores = model.prefill(0, np.array(tokens[known:], np.int64))
    every, said = [scores.tobytes()], []
    for _ in range(most):
        said.append(int(scores.argmax()))
        scores = model.step(np.array([0]), np.array(said[-1:]))[0]
        every.append(scores.tobytes())
    model.release(0)
    return said, b"".join(every), known


def test_known_prefixes_change_no_bit_of_an_answer(model, vocabulary):
    kept, plain = (
        RememberingSteps(ModelId("m", "1"), model, 16, PrefixStore(BlockTree(size), time.perf_counter))
        for size in (1 << 30, 0)
    )
    kept.check(vocabulary.size, 256)
    assert kept.block == 16  # it goes on alike
    prompts = [SYSTEM + text + END for text in ("What is the capital of France?", "What is 2 + 2?")]
    prompts.append(prompts[0])
    known, texts = [], []
    for prompt in prompts:
        tokens = vocabulary.encode(prompt, 1000)
        said, scores, found = answer(kept, tokens)
        assert (said, scores, 0) == answer(plain, tokens)
        known.append(found / len(tokens))
        texts.append(b"".join(vocabulary.spell(token) for token in said))
    assert b"Paris" in texts[0] and texts[2] == texts[0]
    assert known[0] == 0 and known[1] > 0.5 and known[2] > 0.7
    print(f"known {known}, saved {kept.counts.saved_s:.1f} s")
    assert kept.counts.own_s < kept.counts.read_s / kept.counts.read * kept.counts.known
