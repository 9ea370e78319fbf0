"""Large bodies are decoded elsewhere: what comes back is the same, and the loop is free meanwhile."""

import asyncio
import base64
import contextlib
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from soaking import size

from salver.dialects.oip.grpc_codec import decode_infer, is_dense, parse_infer, read_infer
from salver.dialects.oip.grpc_schema import build
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.regions import NO_REGIONS
from salver.dialects.openai.requests import parse_chat
from salver.dialects.tensorflow.grpc_codec import HeadCodec, ModelSpec
from salver.dialects.tensorflow.heads import CLASSIFY
from salver.dialects.tensorflow.json_codec import Predict
from salver.dialects.tensorflow.predict_codec import Predict as GrpcPredict
from salver.dialects.tensorflow.predict_codec import PredictMessages
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build as build_tf
from salver.dialects.torchserve.predict import HandlerQuery, Prediction
from salver.dialects.triton.generate import GenerateCodec
from salver.dialects.triton.repository_calls import parse_load
from salver.encoding import large_json
from salver.encoding.bodies import HttpBody, Message
from salver.encoding.values import MAX_STRINGS, MAX_TENSORS
from salver.kernel.serving import decoding
from salver.kernel.serving.decode_worker import MOST_VALUES, check
from salver.kernel.serving.decoding import LARGE, Decoders
from salver.words.errors import DeadlineExceeded, InvalidInput, Overloaded, SalverError, TooLarge
from salver.words.handlers import SIGNATURE as HANDLER
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType

SIGNATURE = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())
TEXTS = Signature((TensorSpec("x", DataType.BYTES, (-1,)),), ())
COUNT = 20_000
NUMBERS = [index + 0.5 for index in range(COUNT)]


@pytest.fixture
async def decoders(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Decoders]:
    monkeypatch.setattr(decoding, "_MOST_COUNTED", 0)  # numbers go elsewhere, too
    monkeypatch.setattr(large_json, "_MOST_NS", 0)
    made = Decoders()
    yield made
    made.close()


def asked(datatype: str = "FP32", data: Any = NUMBERS, **more: Any) -> HttpBody:
    entry = {"name": "x", "datatype": datatype, "shape": [len(data)], "data": data}
    return HttpBody("m", "3", json.dumps({"inputs": [entry], **more}).encode())


def alike(one: InferRequest, other: InferRequest) -> None:
    assert (one.model, one.version, one.id) == (other.model, other.version, other.id)
    assert one.outputs == other.outputs
    assert dict(one.parameters) == dict(other.parameters)
    assert [(each.name, each.datatype) for each in one.inputs] == [
        (each.name, each.datatype) for each in other.inputs
    ]
    for mine, theirs in zip(one.inputs, other.inputs, strict=True):
        np.testing.assert_array_equal(mine.array, theirs.array)
        assert mine.array.dtype == theirs.array.dtype


@pytest.mark.parametrize(
    ("codec", "body", "signature"),
    [
        (OpenInferenceHttp(), asked(id="q", parameters={"a": 1}, outputs=[{"name": "y"}]), SIGNATURE),
        (OpenInferenceHttp(), asked("BYTES", ["aü", "", "b"] * COUNT), TEXTS),
        (GenerateCodec(), HttpBody("m", "", json.dumps({"x": NUMBERS}).encode()), SIGNATURE),
        (Predict(), HttpBody("m", "", json.dumps({"instances": NUMBERS}).encode()), SIGNATURE),
    ],
)
async def test_what_is_decoded_elsewhere_is_the_same(
    decoders: Decoders, codec: Any, body: HttpBody, signature: Signature
) -> None:
    assert len(body.body) > LARGE
    alike(await decoders.decode(codec, body, signature), codec.decode(body, signature))


async def test_tensorflow_messages_are_decoded_elsewhere(decoders: Decoders) -> None:
    made = build_tf()["PredictRequest"]()
    made.model_spec.name = "m"
    tensor = made.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=COUNT)
    tensor.float_val.extend(NUMBERS)
    codec = GrpcPredict(ModelSpec("m"), TfsRules(), PredictMessages())
    found = await decoders.decode(codec, Message(made.SerializeToString()), SIGNATURE)
    assert found.inputs[0].array.tolist() == NUMBERS
    wanted = build_tf()["ClassificationRequest"]()
    wanted.model_spec.name = "m"
    for _ in range(2000):
        wanted.input.example_list.examples.add().features.feature["a"].float_list.value.append(1.0)
    head = Signature(
        (TensorSpec("inputs", DataType.BYTES, (-1,)),),
        (TensorSpec("scores", DataType.FP32, (-1, -1)),),
        method="tensorflow/serving/classify",
    )
    found = await decoders.decode(
        HeadCodec(ModelSpec("m"), TfsRules(), CLASSIFY), Message(wanted.SerializeToString()), head
    )
    assert found.inputs[0].array.shape == (2000,)


async def test_dense_messages_of_open_inference_are_decoded_elsewhere(decoders: Decoders) -> None:
    made = build()["ModelInferRequest"](model_name="m")
    made.inputs.add(name="x", datatype="FP32", shape=[COUNT]).contents.fp32_contents.extend(NUMBERS)
    message = made.SerializeToString()
    assert is_dense(message)
    alike(await decoders.call(decode_infer, message, NO_REGIONS), decode_infer(message))


def test_raw_contents_of_a_large_message_are_views_of_it() -> None:
    made = build()["ModelInferRequest"](model_name="m", id="q")
    made.inputs.add(name="x", datatype="FP32", shape=[COUNT])
    made.raw_input_contents.append(np.array(NUMBERS, np.float32).tobytes())
    message = made.SerializeToString()
    assert len(message) > LARGE
    assert not is_dense(message)
    parsed = parse_infer(message)
    assert isinstance(parsed.raw_input_contents[0], memoryview)
    request = read_infer(parsed)
    assert (request.model, request.id) == ("m", "q")
    assert request.inputs[0].array.tolist() == NUMBERS


async def test_errors_come_back_as_they_are(decoders: Decoders) -> None:
    body = asked(data=[*NUMBERS, "a"], id="mine")
    with pytest.raises(InvalidInput) as wanted:
        OpenInferenceHttp().decode(body, SIGNATURE)
    with pytest.raises(InvalidInput) as caught:
        await decoders.decode(OpenInferenceHttp(), body, SIGNATURE)
    assert (str(caught.value), caught.value.about) == (str(wanted.value), wanted.value.about)


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_chat, '{"messages":1}'), (eval, "__import__('time').sleep(600)")]
)
async def test_a_refused_body_is_freed_without_the_collector(
    parse: Callable[[bytes], Any], text: str
) -> None:
    body, decoders = text.encode(), Decoders(patience=0.2)
    gc.disable()
    try:
        with pytest.raises(SalverError):
            await decoders.call(parse, body)
        await asyncio.sleep(0)
        assert sys.getrefcount(body) == 2  # this name, and the argument
    finally:
        gc.enable()
        decoders.close()


async def test_a_body_that_waits_for_others_may_be_refused(decoders: Decoders) -> None:
    delays: list[float] = []

    def check(seconds: float) -> None:
        delays.append(seconds)
        if seconds:
            raise Overloaded("too late")

    body = asked(id="q")
    for _ in range(2):  # the first one teaches how long it takes
        found = await asyncio.gather(
            *(decoders.decode(OpenInferenceHttp(), body, SIGNATURE, None, check) for _ in range(2)),
            return_exceptions=True,
        )
    assert delays[:3] == [0.0, 0.0, 0.0] and delays[3] > 0
    assert isinstance(found[0], InferRequest) and isinstance(found[1], Overloaded)


async def test_small_and_known_bodies_stay_here(decoders: Decoders) -> None:
    codec = OpenInferenceHttp()
    values = np.zeros(COUNT, np.float32)
    entry = {
        "name": "x", "datatype": "FP32", "shape": [COUNT], "parameters": {"binary_data_size": values.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {b"inference-header-content-length": b"%d" % len(head)}
    body = HttpBody("m", "", head + values.tobytes(), headers)
    assert codec.weigh(body) == len(head)
    await decoders.decode(codec, body, SIGNATURE)
    assert codec.weigh(body) == 0  # it has come before
    await decoders.decode(codec, body, SIGNATURE)
    assert repr(decoders).count("not started") == 2


@pytest.mark.parametrize("codec", [OpenInferenceHttp(), Predict(), GenerateCodec()])
async def test_json_of_few_enough_values_stays_here(
    codec: Any, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_MOST_COUNTED", 2 << 20)
    for values, stays in (
        (b"0.123456789012345," * 50_000 + b"1", True),
        (b"-0.12345678901234567, " * 45_000 + b"1", True),
        (b"0," * 400_000 + b"0", False),
        (b"0.123456789012345678901," * 40_000 + b"0", False),
        (b"1," * 40_000 + b"1" * 200_000, False),
        (b"NaN," * 90_000 + b"0", False),
        (b"[]," * 30_000 + b"[]", False),
        (b"{}," * 30_000 + b"{}", False),
        (b'"a",' * 20_000 + b'"a"', False),
    ):
        parts: dict[type[Any], bytes] = {
            OpenInferenceHttp: b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[%b]}]}',
            Predict: b'{"instances":[%b]}',
            GenerateCodec: b'{"x":[%b]}',
        }
        body = HttpBody("m", "", parts[type(codec)] % values)
        with contextlib.suppress(SalverError):
            await decoders.decode(codec, body, SIGNATURE)
        assert (repr(decoders).count("not started") == 2) is stays


async def test_forms_are_read_on_a_thread(decoders: Decoders) -> None:
    class Noting(Prediction):
        def decode(self, asking: HandlerQuery, signature: Signature) -> InferRequest:
            threads.append(threading.current_thread())
            return super().decode(asking, signature)

    threads: list[threading.Thread] = []
    codec = Noting("m", "", lambda model: True)
    asking = HandlerQuery(b"a=" + b"x" * LARGE, "application/x-www-form-urlencoded")
    request = await decoders.decode(codec, asking, HANDLER)
    assert request.inputs[0].array.tobytes() == b"x" * LARGE
    assert threads != [threading.current_thread()]


async def test_a_body_that_takes_too_long_is_given_up_and_the_next_is_decoded() -> None:
    decoders = Decoders(patience=0.2)
    with pytest.raises(TooLarge, match=r"takes more than 0.2 s"):
        await decoders.call(eval, b"__import__('time').sleep(600)")
    assert await decoders.call(bytes.upper, b"ab") == b"AB"
    decoders.close()


async def test_a_process_that_hardly_got_a_core_is_given_more_time() -> None:
    decoders = Decoders(patience=1.0)
    assert await decoders.call(eval, b"__import__('time').sleep(1.3)") is None
    with pytest.raises(TooLarge, match=r"takes more than 1 s"):
        await decoders.call(eval, b"[0 for _ in iter(int, 1)]")
    decoders.close()


@pytest.mark.parametrize("work", [b"len(bytearray(1 << 40))", b"__import__('os')._exit(3)"])
async def test_memory_that_there_is_not_costs_the_request_alone(decoders: Decoders, work: bytes) -> None:
    with pytest.raises(TooLarge, match="more memory"):
        await decoders.call(eval, work)
    assert await decoders.call(bytes.upper, b"ab") == b"AB"


async def test_who_waits_no_longer_takes_nothing_along(decoders: Decoders) -> None:
    assert await decoders.call(bytes.upper, b"a") == b"A"  # its process is there
    with pytest.raises(DeadlineExceeded):
        await decoders.call(bytes.upper, b"x" * 1_000_000, seconds=0)
    assert await decoders.call(bytes.upper, b"ab") == b"AB"


@pytest.mark.soak
async def test_the_loop_goes_on_while_a_body_is_decoded(decoders: Decoders) -> None:
    """Of empty lists; a loop that decodes them itself has no turn meanwhile (in full: 45 MB, seconds)."""
    await decoders.call(bytes.upper, b"x" * (5 << 20))  # the process of the large is there
    body = HttpBody("m", "", b'{"inputs":[' + b"[]," * size(1_700_000, 300_000) + b"[]]}")
    doing = asyncio.ensure_future(decoders.decode(OpenInferenceHttp(), body, SIGNATURE))
    turns = 0
    while not doing.done():
        await asyncio.sleep(0)
        turns += 1
    with pytest.raises(InvalidInput, match=f"at most {MAX_TENSORS}"):
        await doing
    assert turns > 100


def test_results_that_would_hold_the_parent_up_are_refused() -> None:
    assert check({"a": [1, 2]}) == {"a": [1, 2]}
    with pytest.raises(InvalidInput, match=f"more than {MOST_VALUES} values"):
        check([[] for _ in range(MOST_VALUES)])
    strings = OpenInferenceHttp().decode(asked("BYTES", ["a"] * COUNT), TEXTS)
    assert check(strings) is strings


async def test_prompts_are_parsed_elsewhere(decoders: Decoders) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a" * 100_000}]}).encode()
    assert await decoders.call(parse_chat, body) == parse_chat(body)
    with pytest.raises(SalverError):
        await decoders.call(parse_chat, body[:-1])


def test_more_strings_than_one_request_may_have() -> None:
    entry = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [MAX_STRINGS + 1],
        "parameters": {"binary_data_size": 4 * (MAX_STRINGS + 1)},
    }
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {b"inference-header-content-length": b"%d" % len(head)}
    with pytest.raises(TooLarge, match=f"at most {MAX_STRINGS}"):
        OpenInferenceHttp().decode(HttpBody("m", "", head + bytes(4 * (MAX_STRINGS + 1)), headers), TEXTS)


async def test_orders_to_load_are_parsed_elsewhere(decoders: Decoders) -> None:
    files = {"file:1/model.onnx": base64.b64encode(bytes(range(256)) * 1000).decode()}
    body = json.dumps({"parameters": {"config": "{}", **files}}).encode()
    assert await decoders.call(parse_load, body) == parse_load(body)
    assert await decoders.call(parse_load, b"") == parse_load(b"")
