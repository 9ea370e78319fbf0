"""Response senders in default mode, and misuse of the Python backend by models (TR-A3)."""

from pathlib import Path

import numpy as np
import pytest
from triton_python_models import DOUBLE, load, own_process, request, write

from salver.backends.protocol import Answer
from salver.dialects.triton.python_backend import pb_utils
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import LoadFailed, ModelFailed, SalverError

__all__ = ["own_process"]  # which holds for these tests, too

SENDER = """import threading
import time

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            response = pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 2)])
            sender = request.get_response_sender()
            PLAN
        return RETURNED
"""


def sending(folder: Path, plan: str, returned: str = "None") -> Answer | SalverError:
    model = load(write(folder, SENDER.replace("PLAN", plan).replace("RETURNED", returned)))
    (answer,) = model.answer([request({"X": np.ones((1, 2), "f4")})])
    return answer


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize(
    ("plan", "returned"),
    [
        ("sender.send(response, FINAL)", "None"),
        ("sender.send(response); sender.send(flags=FINAL)", "None"),
        ("sender.send(response, FINAL)", "[None]"),
        ("sender.send(response, FINAL)", "[pb_utils.InferenceResponse(error=pb_utils.TritonError('late'))]"),
        ("threading.Thread(target=lambda: (time.sleep(0.02), sender.send(response, FINAL))).start()", "None"),
    ],
)
def test_a_model_in_default_mode_may_send_its_one_response(tmp_path: Path, plan: str, returned: str) -> None:
    answer = sending(tmp_path, plan, returned)
    assert isinstance(answer, Answer)
    np.testing.assert_array_equal(answer.outputs["Y"], [[2, 2]])


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize(
    ("plan", "returned", "text"),
    [
        ("sender.send(response); sender.send(response)", "None", "cannot send more than one response"),
        ("sender.send(flags=FINAL)", "None", "cannot send complete final before sending a response"),
        ("sender.send(3)", "None", "TypeError: a response must be a pb_utils.InferenceResponse, not int"),
    ],
)
def test_what_a_sender_in_default_mode_refuses(tmp_path: Path, plan: str, returned: str, text: str) -> None:
    with pytest.raises(ModelFailed, match=text):
        sending(tmp_path, plan, returned)


@pytest.mark.clause("TR-A3")
def test_a_sender_that_goes_without_a_word_leaves_an_error(tmp_path: Path) -> None:
    answer = sending(tmp_path, "del sender")
    assert isinstance(answer, ModelFailed) and "no response was sent" in str(answer)


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize(
    "call",
    [
        "pb_utils.TritonError(3)",
        "pb_utils.Logger.log_info(3)",
        "pb_utils.load_model('m', {'config': 'x'})",
        "pb_utils.unload_model(3)",
        "pb_utils.is_model_ready('m', 1)",
    ],
)
def test_arguments_that_are_no_texts_are_the_models_mistake(call: str) -> None:
    with pytest.raises(TypeError, match="must be a text"):
        eval(call, {"pb_utils": pb_utils})


@pytest.mark.clause("TR-A3")
def test_where_the_program_lies(tmp_path: Path) -> None:
    path = write(tmp_path, DOUBLE)
    load(path)
    assert pb_utils.get_model_dir() == str(path.parent.resolve())


@pytest.mark.clause("TR-A3")
def test_parameters_of_a_response_fit_the_wire(tmp_path: Path) -> None:
    body = DOUBLE.replace('"Y", a * 2)])', '"Y", a * 2)], parameters={"big": 2**64})')
    (answer,) = load(write(tmp_path, body)).answer([request({"X": np.ones((1, 2), "f4")})])
    assert isinstance(answer, ModelFailed) and "'big'" in str(answer)


@pytest.mark.clause("TR-C16")
def test_a_model_may_have_outputs_alone(tmp_path: Path) -> None:
    body = """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [1]})
        return config

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.ones(1, "f4"))]) for _ in requests]
"""
    model = load(write(tmp_path, body), ModelConfig(batching=Batching(enabled=False)))
    assert model.signature.inputs == ()
    (answer,) = model.answer([request({})])
    assert isinstance(answer, Answer) and answer.outputs["Y"].tolist() == [1.0]


@pytest.mark.clause("TR-C4")
def test_a_tensor_has_dimensions(tmp_path: Path) -> None:
    body = DOUBLE.replace(
        "class TritonPythonModel:\n",
        """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": []})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [1]})
        return config

""",
    )
    with pytest.raises(LoadFailed, match="'X' must specify 'dims'"):
        load(write(tmp_path, body), ModelConfig())
