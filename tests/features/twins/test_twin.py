"""SavedModels as ONNX graphs: made by the program, near to TensorFlow's answers, or not made at all."""

import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import savedmodels
from packaged import load, packaged

from salver.backends.protocol import SIGNATURE, LoadOptions
from salver.backends.tensorflow import TensorFlowBackend
from salver.features.twins import conversion
from salver.features.twins.backend import FILE, SAMPLES, Twin, TwinBackend, read_twin
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType


def path_of(name: str) -> Path:
    if name == "guesslang":
        return packaged("guesslang", "model/saved_model.pb").parent
    if name == "basic_pitch":
        return packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent
    return savedmodels.made() / name


def order(path: Path, folder: Path) -> list[str]:
    """The program's arguments."""
    file = folder / "order.json"
    file.write_bytes(
        msgspec.json.encode({"id": ModelId("m", "1"), "path": str(path), "config": ModelConfig()})
    )
    return [str(file), str(folder)]


def run_maker(path: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "salver.features.twins.conversion", *order(path, folder)]
    return subprocess.run(program, capture_output=True, text=True)


def make(name: str, folder: Path) -> Twin:
    """Make a twin in this process, which imports TensorFlow once."""
    try:
        assert conversion.main(order(path_of(name), folder)) == 0
    finally:
        logging.disable(logging.NOTSET)
    return read_twin(folder)


def manifest(folder: Path) -> Manifest:
    return Manifest(ModelId("m", "1"), folder, "savedmodel-twin", "onnx")


@pytest.mark.parametrize("name", ["keras_pair", "basic_pitch"])
def test_all_of_it_runs_as_before(name: str, tmp_path: Path) -> None:
    twin = make(name, tmp_path)
    assert all(part.file and part.samples == 3 and part.apart < 1e-4 for part in twin.parts), twin
    original = load(TensorFlowBackend(), path_of(name))
    model = TwinBackend().load(manifest(tmp_path), LoadOptions())
    plain = msgspec.structs.replace(model.signature, judges_shapes=True)
    told = [msgspec.structs.replace(other, judges_shapes=True) for other in plain.others]
    assert msgspec.structs.replace(plain, others=tuple(told)) == original.signature
    random = np.random.default_rng(9)
    for index, signature in enumerate((model.signature, *model.signature.others)):
        inputs = {s.name: random.normal(size=(4, *s.shape[1:])).astype("f4") for s in signature.inputs}
        mark = {SIGNATURE: np.array(index - 1)} if index else {}
        expected, got = original.run({**inputs, **mark}), model.run({**inputs, **mark})
        assert got.keys() == expected.keys()
        for output in got:
            np.testing.assert_allclose(got[output], expected[output], rtol=1e-3, atol=1e-5)
    original.close()
    model.close()


def test_requests_of_its_owner_are_tried_too(tmp_path: Path) -> None:
    arrays = {f"{n}/serving_default/x": np.full((n + 1, 1), n, "f4") for n in range(2)}
    np.savez(tmp_path / SAMPLES, allow_pickle=False, **arrays, **{"0/other%2Fone/x": np.zeros(1)})
    done = run_maker(path_of("half_plus_three"), tmp_path)
    assert done.returncode == 0, done.stderr
    (first, *_) = read_twin(tmp_path).parts
    assert (first.samples, first.apart) == (5, 0)


@pytest.mark.parametrize(
    ("name", "signature", "why"),
    [
        ("half_plus_three", "regress_x_to_y", "the rank of an input is unknown"),
        ("stateful", "serving_default", "it changes variables or tables"),
        ("guesslang", "predict", ""),
        ("ragged", "serving_default", "ONNX has no StringSplitV2"),
    ],
)
def test_what_cannot_be_converted_says_why(name: str, signature: str, why: str, tmp_path: Path) -> None:
    twin = make(name, tmp_path)
    (part,) = [part for part in twin.parts if part.signature.name == signature]
    assert not part.file and (part.why == why or (not why and part.why))
    assert part.signature.judges_shapes, "it is TensorFlow's to judge"
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == [p.file for p in twin.parts if p.file]
    model = TwinBackend().load(manifest(tmp_path), LoadOptions())
    index = [part.signature.name for part in twin.parts].index(signature)
    with pytest.raises(ModelFailed, match="run by TensorFlow"):
        model.run({SIGNATURE: np.array(index - 1)} if index else {})
    model.close()


def test_what_is_no_savedmodel_ends_the_program_with_the_reason(tmp_path: Path) -> None:
    done = run_maker(savedmodels.made() / "complex_only", tmp_path)
    assert done.returncode == 1
    assert "has no signature that can be served" in done.stderr
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"parts":[]}', b'{"parts":[{"file":"0.onnx"}]}'])
def test_what_is_no_twin_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(LoadFailed, match="twin of a SavedModel"):
        read_twin(tmp_path)


class TestHowFarAnswersMayBeApart:
    def far(self, got: object, expected: object, kind: DataType = DataType.FP32) -> float:
        arrays = [
            value if isinstance(value, np.ndarray) else np.array(value, kind.dtype)
            for value in (got, expected)
        ]
        return conversion._distance(TensorSpec("y", kind, (-1,)), *arrays)

    def test_the_same(self) -> None:
        nan = float("nan")
        assert self.far([1, nan, float("inf")], [1, nan, float("inf")]) == 0
        assert self.far([], []) == 0
        assert self.far([1, 2], [1, 2], DataType.INT64) == 0

    def test_near(self) -> None:
        assert 0 < self.far([1000.5], [1000]) <= 0.5
        assert 0 < self.far([0.00005], [0]) < 1e-4

    @pytest.mark.parametrize(
        ("got", "expected", "kind"),
        [
            ([1.01], [1], DataType.FP32),
            ([float("nan")], [1], DataType.FP32),
            ([float("inf")], [-float("inf")], DataType.FP32),
            ([1], [2], DataType.INT32),
            ([1 + 1e-4], [1], DataType.FP64),
        ],
    )
    def test_too_far(self, got: list[float], expected: list[float], kind: DataType) -> None:
        with pytest.raises(LoadFailed, match="its answer 'y' is"):
            self.far(got, expected, kind)

    def test_another_shape_or_datatype(self) -> None:
        with pytest.raises(LoadFailed, match=r"is float32\[1\] in place of float32\[1, 1\]"):
            self.far([1], [[1]])
        with pytest.raises(LoadFailed, match=r"is float64\[1\] in place of float32\[1\]"):
            self.far(np.ones(1), [1])
