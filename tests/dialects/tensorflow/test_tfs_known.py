"""Requests of a known form are parsed as if it were new."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow.predict_codec import Predict, PredictMessage, PredictMessages
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tf_tensor import number_of
from salver.testing.codecs import mutations
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType

_TYPES = {"x": DataType.FP32, "n": DataType.INT64, "d": DataType.FP64, "h": DataType.BF16, "b": DataType.BOOL}
_RULES = TfsRules()


def _signature(*names: str) -> Signature:
    inputs = tuple(TensorSpec(name, _TYPES[name], (-1, -1)) for name in names)
    return Signature(inputs, (TensorSpec("y", DataType.FP32, (-1,)),))


def _message(arrays: dict[str, np.ndarray], *, as_fields: bool = False, **spec: Any) -> bytes:
    made = build()["PredictRequest"](model_spec={"name": "m", **spec})
    for name, array in arrays.items():
        tensor = made.inputs[name]
        tensor.dtype = number_of(_TYPES[name])
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        field = {"x": tensor.float_val, "d": tensor.double_val}.get(name) if as_fields else None
        if field is None:
            tensor.tensor_content = array.tobytes()
        else:
            field.extend(array.ravel())
    return made.SerializeToString(deterministic=True)


def _arrays(seed: int, *names: str, shape: tuple[int, ...] = (2, 3)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for name in names:
        size = int(np.prod(shape)) * _TYPES[name].itemsize
        raw = random.integers(0, 2 if name == "b" else 64, size, np.uint8)
        found[name] = np.frombuffer(raw.tobytes(), _TYPES[name].dtype).reshape(shape)
    return found


def _ask(messages: PredictMessages, message: bytes, signature: Signature) -> tuple[bool, InferRequest]:
    spec, asked = messages.read(message)
    return _is_known(asked, signature), Predict(spec, _RULES, messages).decode(asked, signature)


def _is_known(asked: PredictMessage, signature: Signature) -> bool:
    return asked.known is not None and asked.known.signature is signature


def _same(one: InferRequest, other: InferRequest) -> None:
    assert one.inputs == () or one.inputs[0].name == other.inputs[0].name
    for ours, theirs in zip(one.inputs, other.inputs, strict=True):
        assert (ours.name, ours.datatype, ours.shape) == (theirs.name, theirs.datatype, theirs.shape)
        assert ours.array.tobytes() == theirs.array.tobytes()
        assert ours.array.flags.aligned
    assert (one.model, one.outputs, one.signature) == (other.model, other.outputs, other.signature)
    assert one.any_shape == other.any_shape


@given(
    st.permutations(["x", "n", "d", "h"]),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(
        [{}, {"version": {"value": 7}}, {"version_label": "a"}, {"signature_name": "serving_default"}]
    ),
    st.tuples(st.integers(0, 3), st.integers(1, 3)),
)
def test_other_numbers_of_a_known_form(
    names: list[str], count: int, as_fields: bool, spec: Any, shape: tuple[int, int]
) -> None:
    signature = _signature(*names[:count])
    messages = PredictMessages()
    for seed in range(3):
        arrays = _arrays(seed, *names[:count], shape=shape)
        message = _message(arrays, as_fields=as_fields, **spec)
        is_known, request = _ask(messages, message, signature)
        assert is_known == (seed > 0 and shape[0] > 0)
        _same(request, _ask(PredictMessages(), message, signature)[1])
        assert [tensor.name for tensor in request.inputs] == names[:count]
        for tensor in request.inputs:
            assert tensor.array.tobytes() == arrays[tensor.name].tobytes()


@pytest.mark.parametrize("names", ["x", "xn", "dx"])
def test_whatever_comes_after_a_known_form(names: str) -> None:
    signature = _signature(*names)
    messages = PredictMessages()
    seed = _message(_arrays(1, *names), version={"value": 3})
    _ask(messages, seed, signature)
    assert _ask(messages, seed, signature)[0]
    quick = 0
    for message in mutations(seed, seed=3, count=1500):
        outcomes = []
        for reader in (messages, PredictMessages()):
            try:
                is_known, request = _ask(reader, message, signature)
                quick += is_known
                outcomes.append(request)
            except SalverError as error:
                outcomes.append((type(error), str(error)))
        if isinstance(outcomes[0], InferRequest):
            _same(*outcomes)
        else:
            assert outcomes[0] == outcomes[1]
        _ask(messages, seed, signature)  # it stays known, or becomes so again
    assert quick


def test_another_signature_is_read_anew_and_learned() -> None:
    messages = PredictMessages()
    message = _message(_arrays(1, "x"))
    before, after = _signature("x"), _signature("x")
    assert [_ask(messages, message, before)[0] for _ in range(2)] == [False, True]
    assert [_ask(messages, message, after)[0] for _ in range(3)] == [False, True, True]


def test_a_request_for_other_outputs_is_another_form() -> None:
    messages = PredictMessages()
    signature = _signature("x")
    made = build()["PredictRequest"].FromString(_message(_arrays(1, "x")))
    made.output_filter.append("y")
    for is_known in (False, True):
        found, request = _ask(messages, made.SerializeToString(), signature)
        assert (found, [output.name for output in request.outputs]) == (is_known, ["y"])
    assert _ask(messages, _message(_arrays(1, "x")), signature)[1].outputs == ()


@pytest.mark.parametrize("case", ["bool", "filled", "long"])
def test_forms_that_are_not_remembered(case: str) -> None:
    messages = PredictMessages()
    spec: dict[str, Any] = {}
    if case == "bool":
        message, signature = _message(_arrays(1, "b")), _signature("b")  # each byte needs a look
    elif case == "filled":
        made = build()["PredictRequest"](model_spec={"name": "m"})
        made.inputs["x"].CopyFrom(build()["TensorProto"](dtype=1, float_val=[1.0]))
        for _ in range(2):
            made.inputs["x"].tensor_shape.dim.add(size=2)
        message, signature = made.SerializeToString(), _signature("x")
    else:
        spec["signature_name"] = "serving_default"
        made = build()["PredictRequest"].FromString(_message(_arrays(1, "x"), **spec))
        made.client_id = b"a" * 5000
        message, signature = made.SerializeToString(), _signature("x")
    for _ in range(3):
        is_known, request = _ask(messages, message, signature)
        assert not is_known
        _same(request, _ask(PredictMessages(), message, signature)[1])
