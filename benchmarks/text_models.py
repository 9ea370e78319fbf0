"""Classifiers of texts that are measured: a tokenizer, and a network of some microseconds."""

import json
from pathlib import Path

import numpy as np
from models import CACHE
from onnx import TensorProto, helper, numpy_helper

IDS = [(name, "TYPE_INT64", "-1") for name in ("input_ids", "attention_mask", "token_type_ids")]
WIDTH = 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
#: A text, and words that the tokenizer of :func:`small` knows.
TEXT = "I forgot the password of my account and cannot log in"


def classifier(folder: Path, words: int) -> Path:
    """Write a network for so many words, without its tokenizer: the mean of their vectors, times a matrix."""
    names = {"0": "no", "1": "yes"}
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "id2label": names}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    random = np.random.default_rng(0)
    weights = {
        "words": random.normal(0, 1, (words, WIDTH)),
        "kinds": random.normal(0, 0.1, (2, WIDTH)),
        "classes": random.normal(0, 1, (WIDTH, 2)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "input_ids"], ["w"]),
            helper.make_node("Gather", ["kinds", "token_type_ids"], ["k"]),
            helper.make_node("Add", ["w", "k"], ["states"]),
            helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "last"], ["mask"]),
            helper.make_node("Mul", ["states", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
            helper.make_node("MatMul", ["sum", "classes"], ["logits"]),
        ],
        "classes",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name, _, _ in IDS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array([1]), "second"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder


def graph() -> Path:
    """Write the same as a pipeline."""
    folder = small("graph")
    steps = ('use = "tokenize"', 'model = "model.onnx"', 'use = "softmax"', 'use = "arg-max"')
    (folder / "pipeline.toml").write_text("".join(f"[steps.s{i}]\n{step}\n" for i, step in enumerate(steps)))
    return folder


def small(name: str = "words") -> Path:
    """Write a classifier with a tokenizer of some words."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    words = {word: id for id, word in enumerate((*_SPECIAL, *TEXT.split()))}
    ends = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]")]
    tokenizer = {
        "added_tokens": [
            {"id": words[name], "content": name, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for name in _SPECIAL
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]],
            "pair": [
                ends[0],
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                name: {"id": name, "ids": [words[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return classifier(folder, len(words))
