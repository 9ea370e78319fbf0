"""Logged requests and answers, read by TensorFlow Serving's own client."""

import functools
from typing import Any

import numpy as np
import pytest

from salver.dialects.tensorflow.log_records import log_record, size_of
from salver.dialects.tensorflow.tf_schema import build
from salver.words.artifacts import Logging
from salver.words.errors import InvalidInput
from salver.words.events import Predicted
from salver.words.messages import InferRequest, InferResponse, RequestedOutput
from salver.words.tensor import Tensor, tensor

_WISH = Logging(rate=0.25)


@functools.cache
def _client() -> Any:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    return PredictionLog


def _event(
    inputs: list[Tensor],
    outputs: list[Tensor],
    api: str = "",
    signature: str = "serving_default",
    wanted: tuple[str, ...] = (),
) -> Predicted:
    request = InferRequest("m", tuple(inputs), outputs=tuple(map(RequestedOutput, wanted)))
    return Predicted(request, InferResponse("m", "00000007", tuple(outputs)), api, signature, _WISH)


def _examples() -> Tensor:
    rows = []
    for value in (1.0, 2.0):
        made = build()["Example"]()
        made.features.feature["x"].float_list.value.append(value)
        rows.append(made.SerializeToString())
    return tensor("inputs", np.array(rows, dtype=object))


@pytest.mark.clause("TF-G18")
@pytest.mark.parametrize("api", ["", "Predict"])
def test_a_prediction_of_any_protocol(api: str) -> None:
    x = np.array([[1.5, 2]], np.float32)
    event = _event(
        [tensor("x", x), tensor("words", [["a"]])],
        [tensor("y", np.array([3]))],
        api,
        "named",
        wanted=("y",),
    )
    made = _client().FromString(log_record(event, 1_700_000_000))
    assert made.WhichOneof("log_type") == "predict_log"
    metadata = made.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 7)
    assert metadata.model_spec.signature_name == "named"
    assert (metadata.sampling_config.sampling_rate, metadata.timestamp_secs) == (0.25, 1_700_000_000)
    request = made.predict_log.request
    assert (request.model_spec.signature_name, list(request.output_filter)) == ("named", ["y"])
    assert list(request.inputs["x"].float_val) == [1.5, 2]
    assert list(request.inputs["words"].string_val) == [b"a"]
    assert list(made.predict_log.response.outputs["y"].int64_val) == [3]


@pytest.mark.clause("TF-G18")
def test_a_classification() -> None:
    outputs = [tensor("classes", [["a", "b"]] * 2), tensor("scores", np.array([[1, 0], [0, 1]], np.float32))]
    made = _client().FromString(log_record(_event([_examples()], outputs, "Classify", "c"), 1))
    log = made.classify_log
    assert [e.features.feature["x"].float_list.value[0] for e in log.request.input.example_list.examples] == [
        1,
        2,
    ]
    rows = [[(c.label, c.score) for c in row.classes] for row in log.response.result.classifications]
    assert rows == [[("a", 1), ("b", 0)], [("a", 0), ("b", 1)]]
    assert log.request.model_spec.signature_name == "c"


@pytest.mark.clause("TF-G18")
def test_a_regression() -> None:
    outputs = [tensor("outputs", np.array([0.5, 1], np.float32))]
    made = _client().FromString(log_record(_event([_examples()], outputs, "Regress", "r"), 1))
    assert [r.value for r in made.regress_log.response.result.regressions] == [0.5, 1]
    assert len(made.regress_log.request.input.example_list.examples) == 2


@pytest.mark.clause("TF-G18")
@pytest.mark.parametrize("head", ["regress", "classify"])
def test_a_task_of_several(head: str) -> None:
    name = "outputs" if head == "regress" else "scores"
    outputs = [tensor(name, np.array([[0.5], [1]], np.float32))]
    made = _client().FromString(log_record(_event([_examples()], outputs, "MultiInference", "h"), 1))
    (task,) = made.multi_inference_log.request.tasks
    assert task.method_name == f"tensorflow/serving/{head}"
    assert (task.model_spec.name, task.model_spec.signature_name) == ("m", "h")
    (result,) = made.multi_inference_log.response.results
    if head == "regress":
        assert [r.value for r in result.regression_result.regressions] == [0.5, 1]
    else:
        rows = result.classification_result.classifications
        assert [[c.score for c in row.classes] for row in rows] == [[0.5], [1]]


def test_an_answer_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Could not find output tensor"):
        log_record(_event([_examples()], [tensor("y", np.zeros(2))], "Regress"), 1)


def test_sizes_count_strings() -> None:
    event = _event(
        [tensor("x", np.zeros(4, np.float32)), tensor("s", ["abc", "d"])], [tensor("y", np.zeros(1))]
    )
    assert size_of(event) == 16 + (16 + 4) + 8
