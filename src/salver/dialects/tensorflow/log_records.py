"""Requests with their answers as serialised ``tensorflow.serving.PredictionLog`` (TF-G18).

They may come from any protocol, and serve as warm-up requests, too. Pure.
"""

from typing import Any, Final

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.grpc_codec import write_result, write_spec
from salver.dialects.tensorflow.heads import CLASSIFY, OUTPUTS, REGRESS
from salver.dialects.tensorflow.tf_schema import build_unread
from salver.words.events import Predicted
from salver.words.tensor import Tensor

_MESSAGES: Final = build_unread()


def log_record(event: Predicted, time: int) -> bytes:
    """Return a PredictionLog.

    Args:
        time: Unix seconds.

    Raises:
        InvalidInput, Unsupported: An answer to Classify or Regress has another form.
    """
    log = _MESSAGES["PredictionLog"]()
    metadata = log.log_metadata
    write_spec(metadata.model_spec, event.response, event.signature)
    metadata.sampling_config.sampling_rate = event.wish.rate
    metadata.timestamp_secs = time
    metadata.request_origin = event.request_id  # the field that outcomes are joined by
    match event.api:
        case "Classify":
            _write_head(log.classify_log, CLASSIFY, event)
        case "Regress":
            _write_head(log.regress_log, REGRESS, event)
        case "MultiInference":
            _write_task(log.multi_inference_log, event)
        case _:
            _write_predict(log.predict_log, event)
    return log.SerializeToString()  # type: ignore[no-any-return]


def size_of(event: Predicted) -> int:
    """Return the approximate size of the tensors in bytes."""
    return sum(_bytes(tensor) for tensor in (*event.request.inputs, *event.response.outputs))


def _bytes(tensor: Tensor) -> int:
    array = tensor.array
    if array.dtype == object:
        return array.nbytes + sum(map(len, array.ravel().tolist()))
    return array.nbytes


def _write_predict(log: Any, event: Predicted) -> None:
    write_spec(log.request.model_spec, event.response, event.signature)
    write_spec(log.response.model_spec, event.response, event.signature)
    log.request.output_filter.extend([output.name for output in event.request.outputs])
    for field, tensors in (
        (log.request.inputs, event.request.inputs),
        (log.response.outputs, event.response.outputs),
    ):
        for tensor in tensors:
            field[tensor.name].MergeFromString(tf_tensor.to_bytes(tensor.datatype, tensor.array))


def _write_head(log: Any, method: str, event: Predicted) -> None:
    write_spec(log.request.model_spec, event.response, event.signature)
    write_spec(log.response.model_spec, event.response, event.signature)
    examples = _write_examples(log.request.input, event)
    write_result(log.response.result, method, event.response.outputs, examples)


def _write_task(log: Any, event: Predicted) -> None:
    answer = log.response.results.add()
    method, result = CLASSIFY, answer.classification_result
    if any(tensor.name == OUTPUTS for tensor in event.response.outputs):
        method, result = REGRESS, answer.regression_result
    task = log.request.tasks.add(method_name=method)
    write_spec(task.model_spec, event.response, event.signature)
    examples = _write_examples(log.request.input, event)
    write_spec(answer.model_spec, event.response, event.signature)
    write_result(result, method, event.response.outputs, examples)


def _write_examples(field: Any, event: Predicted) -> int:
    examples: list[bytes] = event.request.inputs[0].array.ravel().tolist()
    field.example_list.examples.extend(examples)
    return len(examples)
