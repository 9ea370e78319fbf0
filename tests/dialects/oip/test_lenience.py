"""Tensors with other names and types than the model's, where the server is told to take them."""

import pickle

import numpy as np
import pytest

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.lenience import LenientHttp, fitted
from salver.words.messages import InferRequest, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

MODEL = Signature(
    (TensorSpec("a", DataType.FP32, (-1,)), TensorSpec("b", DataType.INT64, (-1,))),
    (TensorSpec("y", DataType.FP32, (-1,)), TensorSpec("z", DataType.FP32, (-1,))),
)


def request(inputs: dict[str, DataType], *outputs: str) -> InferRequest:
    tensors = [Tensor(name, kind, np.ones(2, kind.dtype)) for name, kind in inputs.items()]
    return InferRequest("m", tuple(tensors), id="r", outputs=tuple(map(RequestedOutput, outputs)))


FP32, FP64, INT32, INT64, BYTES = DataType.FP32, DataType.FP64, DataType.INT32, DataType.INT64, DataType.BYTES


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"a": FP32, "b": INT64}, {"a": FP32, "b": INT64}),
        ({"b": INT64, "a": FP32}, {"b": INT64, "a": FP32}),
        ({"input-0": FP32, "input-1": INT64}, {"a": FP32, "b": INT64}),
        ({"input-0": INT32, "input-1": INT32}, {"a": FP32, "b": INT64}),
        ({"a": FP64, "b": INT32}, {"a": FP32, "b": INT64}),
        # The engine refuses the rest: one name is known, another number of inputs, other kinds.
        ({"a": FP32, "input-1": INT64}, {"a": FP32, "input-1": INT64}),
        ({"input-0": FP32}, {"input-0": FP32}),
        ({"a": BYTES, "b": FP32}, {"a": BYTES, "b": FP32}),
        ({"a": DataType.BF16, "b": INT64}, {"a": DataType.BF16, "b": INT64}),
    ],
)
def test_inputs(given: dict[str, DataType], wanted: dict[str, DataType]) -> None:
    got = fitted(request(given), MODEL)
    assert {tensor.name: tensor.datatype for tensor in got.inputs} == wanted
    assert all(tensor.array.dtype == tensor.datatype.dtype for tensor in got.inputs)
    assert got.id == "r"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((), ()),
        (("output-0",), ("y",)),
        (("output-0", "output-1"), ("y", "z")),
        (("z",), ("z",)),
        (("z", "output-1"), ("z", "output-1")),
        (("output-0", "output-1", "output-2"), ("output-0", "output-1", "output-2")),
    ],
)
def test_outputs(given: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    got = fitted(request({"a": FP32, "b": INT64}, *given), MODEL)
    assert tuple(output.name for output in got.outputs) == wanted


def test_another_process_gets_the_same_codec() -> None:
    """Large bodies are decoded there."""
    for codec in (OpenInferenceHttp(), LenientHttp()):
        assert type(pickle.loads(pickle.dumps(codec))) is type(codec)


@pytest.mark.parametrize(("value", "kind"), [(7, INT32), (1 << 40, INT64)])
def test_a_number_that_does_not_fit_stays_what_it_is(value: int, kind: DataType) -> None:
    model = Signature((TensorSpec("a", INT32, (-1,)),), MODEL.outputs)
    given = InferRequest("m", (Tensor("a", INT64, np.array([value])),))
    (got,) = fitted(given, model).inputs
    assert (got.datatype, got.array.tolist()) == (kind, [value])
