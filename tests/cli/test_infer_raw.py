"""Raw inputs of ``salver infer``: what is sent, and how answers are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from salver.cli.infer_raw import RawInputs, body_of
from salver.encoding.bodies import HttpBody
from salver.features.pipelines.bodies import parts
from salver.terminal.raw_answers import tabulated
from salver.words.errors import InvalidInput
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType


def test_texts_and_json_are_inputs() -> None:
    assert json.loads(body_of(RawInputs(text=""))[0]) == {"inputs": ""}
    body, kind = body_of(RawInputs(inputs='["a"]', parameters='{"top_k": 2}'))
    assert json.loads(body) == {"inputs": ["a"], "parameters": {"top_k": 2}} and kind == "application/json"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JPG", "image/jpeg"),
        ("a.csv", "text/csv"),
        ("a.wav", "audio/wav"),
        ("a", "application/octet-stream"),
    ],
)
def test_a_file_has_the_type_of_its_ending(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"content")
    assert body_of(RawInputs(file=path)) == (b"content", kind)
    assert body_of(RawInputs(csv=path)) == (b"content", "text/csv")


def test_a_file_with_parameters_is_a_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\r\n--x--\xff")
    body, kind = body_of(RawInputs(file=path, parameters='{"top_k": 2}'))
    signature = Signature(
        (TensorSpec("image", DataType.BYTES, (-1,)),), (), platform="huggingface_image-classification"
    )
    sent = HttpBody("m", "", body, {b"content-type": kind.encode()})
    assert parts(sent, signature) == (b"\r\n--x--\xff", {"top_k": 2})


WRONG = {
    "nothing": (RawInputs(parameters="{}"), "give one of"),
    "two": (RawInputs(text="a", inputs="1"), "give one of"),
    "not JSON": (RawInputs(inputs="{"), "--inputs is not JSON"),
    "parameters": (RawInputs(text="a", parameters="top_k=2"), "--parameters is not JSON"),
    "no file": (RawInputs(file=Path("/none")), "cannot read /none: No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_named(name: str) -> None:
    raw, said = WRONG[name]
    with pytest.raises(InvalidInput, match=said):
        body_of(raw)


LABELS = [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]
ANSWERS: dict[str, tuple[Any, list[str], list[list[str]]]] = {
    "labels": (LABELS, ["label", "score"], [["cat", "0.75"], ["dog", "0.25"]]),
    "of several": (
        [LABELS, LABELS[:1]],
        ["input", "label", "score"],
        [["0", "cat", "0.75"], ["0", "dog", "0.25"], ["1", "cat", "0.75"]],
    ),
    "one": ({"score": 0.5, "answer": "Berlin"}, ["score", "answer"], [["0.5", "Berlin"]]),
    "boxes": (
        [{"label": "cat", "box": {"xmin": 1, "ymin": 2}}],
        ["label", "box.xmin", "box.ymin"],
        [["cat", "1", "2"]],
    ),
    "predictions": ({"predictions": ["yes", "no"]}, ["answer"], [["yes"], ["no"]]),
    "probabilities": (
        {"predictions": ["yes"], "probabilities": [{"yes": 0.9, "no": 0.1}]},
        ["predictions", "probabilities.yes", "probabilities.no"],
        [["yes", "0.9", "0.1"]],
    ),
    "similarities": ({"similarities": [0.5, 1]}, ["similarities"], [["0.5"], ["1"]]),
    "an embedding": (
        {"embeddings": [0.5] * 7},
        ["embeddings"],
        [["[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, … 7 numbers]"]],
    ),
    "embeddings": ({"embeddings": [[0.5, 1.0]]}, ["embeddings"], [["[0.5,1.0]"]]),
    "a text": ("hello", ["answer"], [["hello"]]),
    "nothing": ([], [], []),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_a_table(name: str) -> None:
    answer, columns, rows = ANSWERS[name]
    assert tabulated(answer) == (columns, rows)
