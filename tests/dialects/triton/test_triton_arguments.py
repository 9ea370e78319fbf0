"""Arguments of any kind that models pass to ``pb_utils``: none ends a model process (TR-A3, TR-S7).

A model evaluates the expression that it is asked, so that each case is one line.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from salver.testing.process import ServerProcess

DOUBLE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.reply(pb_utils.get_input_tensor_by_name(r, "X").as_numpy()) for r in requests]

    def reply(self, x):
        return pb_utils.InferenceResponse([pb_utils.Tensor(b"Y", x * 2)])
"""
TRIES = """
import os
import sys
import traceback

import numpy as np
import triton_python_backend_utils as pb_utils

Request, Response, Tensor, Error = (
    pb_utils.InferenceRequest, pb_utils.InferenceResponse, pb_utils.Tensor, pb_utils.TritonError
)
Family, Logger, Trace = pb_utils.MetricFamily, pb_utils.Logger, pb_utils.InferenceTrace
X = np.array([1, 2], np.int32)


class Text(str):
    def __str__(self):
        return 7


def call(model_name="double", outputs=("Y",), inputs=None, **more):
    inputs = [Tensor("X", X)] if inputs is None else inputs
    reply = Request(model_name=model_name, requested_output_names=outputs, inputs=inputs, **more).exec()
    return reply.error().message() if reply.has_error() else reply.output_tensors()[0].as_numpy().tolist()


def metric(name, labels=None, about="About.", kind=Family.GAUGE, **more):
    made = Family(name, about, kind).Metric(labels=labels, **more)
    made.set(3)
    return made.value()


def reply_of(said, **more):
    outputs = [Tensor("SAID", np.array([str(said)], object)), Tensor("PID", np.array([os.getpid()]))]
    return Response(outputs, **more)


class TritonPythonModel:
    def execute(self, requests):
        codes = [pb_utils.get_input_tensor_by_name(r, b"CODE").as_numpy()[0] for r in requests]
        return [self.reply(code.decode()) for code in codes]

    def reply(self, code):
        try:
            said = eval(code)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        if isinstance(said, Response):
            return said
        return reply_of(said)
"""
CONFIGS = {
    "double": (
        DOUBLE,
        'input [{ name: "X" data_type: TYPE_INT32 dims: [-1] }] '
        'output [{ name: "Y" data_type: TYPE_INT32 dims: [-1] }]',
    ),
    "tries": (
        TRIES,
        'input [{ name: "CODE" data_type: TYPE_STRING dims: [1] }] output [{ name: "SAID" '
        'data_type: TYPE_STRING dims: [1] }, { name: "PID" data_type: TYPE_INT64 dims: [1] }]',
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("arguments")
    for name, (source, config) in CONFIGS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(source)
        (version.parent / "config.pbtxt").write_text(f'backend: "python"\n{config}\n')
    options = ["--control", "explicit", "--load", "*"]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready(120)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.address, network_timeout=120) as client:
        yield client


def said_to(client: Any, code: str) -> tuple[str, int]:
    tensor = triton_http.InferInput("CODE", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([code], object))
    reply = client.infer("tries", [tensor])
    return reply.as_numpy("SAID")[0].decode(), int(reply.as_numpy("PID")[0])


@pytest.fixture(scope="module")
def pid(client: Any) -> int:
    return said_to(client, "1")[1]


TAKEN = {
    "call(b'double')": "[2, 4]",
    "call(np.str_('double'), outputs=[np.str_('Y')])": "[2, 4]",
    "call(np.bytes_(b'double'))": "[2, 4]",
    "call(Text('double'))": "[2, 4]",
    "call(outputs=[b'Y'])": "[2, 4]",
    "call(outputs={b'Y', 'Y'})": "[2, 4]",
    "call(inputs=[Tensor(b'X', X)])": "[2, 4]",
    "call(request_id=b'abc')": "[2, 4]",
    "call(correlation_id=b'abc', flags=np.int64(3))": "[2, 4]",
    "call(correlation_id=np.uint64(2**63), flags=1)": "[2, 4]",
    "call(model_version=np.int32(1))": "[2, 4]",
    "call(timeout=np.int64(10**9))": "[2, 4]",
    "call(parameters={b'a': b'b', 'c': np.float32(1), 'd': np.int8(1)})": "[2, 4]",
    "call(parameters={'e': np.str_('x'), 'f': np.bool_(1)})": "[2, 4]",
    "call(trace=Trace(b''))": "[2, 4]",
    "pb_utils.is_model_ready(b'double', b'1')": "True",
    "pb_utils.is_model_ready(np.str_('double'))": "True",
    "pb_utils.load_model(b'double')": "None",
    "Logger.log_info(b'a line')": "None",
    "Logger.log(np.str_('a line'), np.int64(1))": "None",
    "Logger.log_info('x' * (70 << 20))": "None",
    "metric(b'arg_a', {b'k': b'v'}, b'about')": "3.0",
    "metric(np.str_('arg_b'), {np.str_('k'): np.str_('v')}, np.str_('about'))": "3.0",
    "Error(b'why').message()": "why",
    "pb_utils.get_input_config_by_name({'input': [{'name': 'a'}]}, b'a')": "{'name': 'a'}",
    "pb_utils.triton_string_to_numpy(b'TYPE_FP32')": "<class 'numpy.float32'>",
    "Response(parameters=b'{\"a\": 1}').parameters()": '{"a": 1}',
}


@pytest.mark.clause("TR-A3", "TR-S7")
@pytest.mark.parametrize("code", TAKEN)
def test_bytes_and_numpy_values_stand_for_texts_and_numbers(code: str, client: Any, pid: int) -> None:
    assert said_to(client, code) == (TAKEN[code], pid)


@pytest.mark.clause("TR-A3", "TR-S7")
@pytest.mark.parametrize(
    "code",
    [
        "call(7)",
        "call([])",
        "call(['double'])",
        "call(b'\\xff')",
        "call(outputs=[7])",
        "call(outputs='Y')",
        "call(outputs=[None])",
        "call(inputs=[X])",
        "call(inputs=[Tensor(7, X)])",
        "call(inputs=[Tensor('X', [1, 2])])",
        "call(request_id=7)",
        "call(correlation_id=1.5)",
        "call(correlation_id=1 << 70)",
        "call(model_version='1')",
        "call(model_version=1 << 70)",
        "call(timeout='1')",
        "call(timeout=-1)",
        "call(timeout=1 << 70)",
        "call(flags='1')",
        "call(parameters={1: 2})",
        "call(parameters={'a': [1]})",
        "call(parameters={'a': None})",
        "call(parameters={'a': 1 << 70})",
        "call(parameters=7)",
        "call(trace='00-1')",
        "call(trace=Trace(7))",
        "pb_utils.is_model_ready(7)",
        "pb_utils.is_model_ready('double', 1)",
        "pb_utils.load_model(None)",
        "pb_utils.load_model('double', {})",
        "pb_utils.load_model('double', '{}', {7: b''})",
        "pb_utils.load_model('double', '{}', {'file:1/a': 1 << 40})",
        "pb_utils.unload_model(['x'])",
        "Logger.log_info(7)",
        "Logger.log_info(b'\\xff')",
        "metric(7)",
        "metric('arg_c', {'k': 7})",
        "metric('arg_c', {7: 'v'})",
        "metric('arg_c', about=7)",
        "metric('arg_c', kind=Family.HISTOGRAM, buckets=['x'])",
        "Family('arg_d', 'About.', Family.GAUGE).Metric().set('x')",
        "Error(7)",
        "Error(None)",
        "Response(parameters={'a': X})",
        "Response(error='no')",
        "Tensor(None, X)",
    ],
)
def test_what_stands_for_nothing_raises_in_the_model(code: str, client: Any, pid: int) -> None:
    said, same = said_to(client, code)
    assert said.startswith(("TypeError: ", "TritonModelException: ", "ValueError: ")), said
    assert same == pid


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize(
    "code",
    [
        "Request(model_name='double', inputs=[Tensor('n' * (70 << 20), X)]).exec()",
        "Request(model_name='m' * (70 << 20), inputs=[Tensor('X', X)]).exec()",
        "Request(model_name='double', inputs=[Tensor('X', X)], parameters={'p': 'v' * (70 << 20)}).exec()",
        "Response(error=Error('e' * (70 << 20)))",
        "Response(error=Error('\\ud800'))",
        "reply_of('x', parameters={'p': 'v' * (70 << 20)})",
        "Response([], parameters='[' * 100000)",
        "Response([], parameters='{\"a\": ' + '9' * 10000 + '}')",
        "Response([Tensor(b'OTHER', X)])",
        "Response([Tensor('SAID', np.array([{}, None], object))])",
    ],
)
def test_what_is_too_long_or_makes_no_sense_costs_its_request_alone(code: str, client: Any, pid: int) -> None:
    try:
        said_to(client, code)
    except Exception as error:
        assert len(str(error)) < 1 << 20
    assert said_to(client, "1") == ("1", pid)


@pytest.mark.clause("TR-A3")
def test_a_requests_parameters_that_are_too_long_end_no_process(
    server: ServerProcess, client: Any, pid: int
) -> None:
    tensor = triton_grpc.InferInput("CODE", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"1"], object))
    with (
        triton_grpc.InferenceServerClient(server.address) as grpc,
        pytest.raises(InferenceServerException, match="the parameters of a request or an answer take"),
    ):
        grpc.infer("tries", [tensor], parameters={"p": "v" * (70 << 20)})
    assert said_to(client, "1") == ("1", pid)
