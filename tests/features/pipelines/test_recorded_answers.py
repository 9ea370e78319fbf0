"""Answers equal those that transformers and sentence-transformers gave for the same directories."""

import functools

import numpy as np
import pytest
from huggingface_directories import cases, directory
from pipeline_answers import alike, asked

from salver.backends.protocol import LoadOptions
from salver.features.pipelines.backend import HuggingFaceBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import InvalidInput
from salver.words.messages import ModelId

pytest.importorskip("tokenizers")
pytest.importorskip("onnxruntime")
TASKS = (
    "text-classification",
    "token-classification",
    "feature-extraction",
    "sentence-embeddings",
    "text-ranking",
    "zero-shot-classification",
    "fill-mask",
    "question-answering",
)
#: transformers returns the states of padding, too, if it is told to batch; Salver never does.
WITH_PADDING = {"features/batch"}
CASES = [case for task in TASKS for case in cases(task) if case["id"] not in WITH_PADDING]
#: Too long for the network: transformers fails, while Salver cuts unless it is told not to.
CUT = {"text-classification", "fill-mask", "feature-extraction"}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def load(name, task):
        path = directory(folder / task, name)
        config = ModelConfig(options={"task": task})
        manifest = Manifest(ModelId(name, "1"), path, "huggingface", "huggingface", config)
        return HuggingFaceBackend().load(manifest, LoadOptions())

    return load


def in_our_form(case, got):
    """Return an answer in the form that the library returns, where the server's is another."""
    if case["task"] == "sentence-embeddings":
        return got["embeddings"]
    if case["task"] == "text-ranking":
        if isinstance(case["input"], dict):
            return [{"corpus_id": row["index"], "score": row["score"]} for row in got]
        return got["scores"]
    if case["task"] == "feature-extraction":
        many = isinstance(case["input"], list)
        return [brief(each) for each in got] if many else brief(got)
    return got


def brief(states):
    flat = np.array(states, "f4").astype("f8").ravel()
    return {
        "shape": list(np.shape(states)),
        "dtype": "float32",
        "mean": float(flat.mean()),
        "std": float(flat.std()),
        "min": float(flat.min()),
        "max": float(flat.max()),
        "first": flat[:6].tolist(),
        "last": flat[-3:].tolist(),
    }


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_answer_is_that_of_the_library(case, model_of):
    model = model_of(case["model"], case["task"])
    body = {"inputs": case["input"]}
    body["parameters"] = {k: v for k, v in case["parameters"].items() if k != "batch_size"}
    if "is_split_into_words" in body["parameters"]:
        with pytest.raises(InvalidInput, match="is_split_into_words"):
            asked(model, body)
        return
    if "error" in case:
        if case["task"] in CUT and "too-long" in case["id"]:
            assert asked(model, body)
            body["parameters"]["truncation"] = False
        with pytest.raises(InvalidInput) as refused:
            asked(model, body)
        assert refused.value.field and refused.value.fix
        return
    want = case["output"]
    for each in want if isinstance(want, list) else [want]:
        if isinstance(each, dict):
            each.pop("sha256_16", None)
    alike(in_our_form(case, asked(model, body)), want)
