"""Words of a command line as inputs."""

from pathlib import Path

import numpy as np
import pytest

from salver.client.encoding import specs
from salver.terminal.tensors import examples, parse_inputs, parse_tensor, shown, texts
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import DATATYPES, DataType, as_bytes

FLOATS = TensorSpec("x", DataType.FP32, (-1, 2))
WORDS = TensorSpec("t", DataType.BYTES, (-1,))


@pytest.mark.parametrize("value", ["[[1,2]]", "[1,2]", "[[1.0, 2]]"])
def test_json_with_and_without_the_batch_dimension(value: str) -> None:
    tensor = parse_tensor(value, FLOATS)
    assert tensor.array.tolist() == [[1.0, 2.0]]
    assert tensor.array.dtype == np.float32


@pytest.mark.parametrize("value", ["hello", '"hello"', '["hello"]'])
def test_text_for_bytes(value: str) -> None:
    assert parse_tensor(value, WORDS).array.tolist() == [b"hello"]


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[3, 4]]))
    (tmp_path / "x.json").write_text("[[5, 6]]")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    assert parse_tensor(f"@{tmp_path / 'x.npy'}", FLOATS).array.tolist() == [[3, 4]]
    assert parse_tensor(f"@{tmp_path / 'x.json'}", FLOATS).array.tolist() == [[5, 6]]
    assert parse_tensor(f"@{tmp_path / 'photo.jpg'}", WORDS).array.tolist() == [b"\xff\xd8"]


def test_a_pickle_in_an_npy_file_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="not a readable"):
        parse_tensor(f"@{tmp_path / 'x.npy'}", FLOATS)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[[1,2,3]]", r"has shape \[1, 3\], the model wants \[-1, 2\]"),
        ("1", "has shape"),
        ("hello", "neither JSON nor @FILE"),
        ('[["a","b"]]', "must hold numbers"),
        ("[[1],[2,3]]", "neither JSON"),
        ("@/no/such/file.npy", "cannot read /no/such/file.npy: No such file"),
        ("@/etc/hostname", "must be .npy or .json"),
    ],
)
def test_what_does_not_fit_is_named(value: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_tensor(value, FLOATS)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInput, match="300"):
        parse_tensor("[300]", TensorSpec("x", DataType.UINT8, (-1,)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["x"], "is not NAME=VALUE"),
        (["y=1"], "has no input 'y'. It has: x, t"),
        (["x=[1,2]"], r"no --input is given for t. It wants: x FP32\[-1, 2\], t BYTES\[-1\]"),
    ],
)
def test_words_that_name_nothing(words: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_inputs(words, [FLOATS, WORDS])


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_inputs(["t=a=b"], [WORDS])["t"].array.tolist() == [b"a=b"]


@pytest.mark.parametrize("kind", DATATYPES.values(), ids=DATATYPES)
def test_made_up_inputs_fit(kind: DataType) -> None:
    made = examples([TensorSpec("x", kind, (-1, 3, -1)), TensorSpec("y", kind, (2,))], 5, 0)
    assert made["x"].shape == (5, 3, 1)
    assert made["y"].shape == (2,)
    assert made["x"].array.dtype == kind.dtype


def test_metadata_becomes_specs() -> None:
    (spec,) = specs({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}, "inputs")
    assert spec == FLOATS
    wrong = {"inputs": [{"name": "x", "datatype": "FP9", "shape": []}]}
    for broken in ({}, {"inputs": 5}, {"inputs": [5]}, wrong):
        with pytest.raises(InvalidInput, match=r"metadata has no proper inputs|FP9"):
            specs(broken, "inputs")


def test_values_are_shown_short_and_bytes_as_text() -> None:
    assert len(shown(np.zeros((1000, 1000)))) < 400
    assert shown(as_bytes(["ä"])) == "['ä']"
    assert texts(as_bytes([["a"], [b"\xff"]])) == [["a"], ["\\xff"]]
