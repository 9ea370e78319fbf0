"""Records of requests with their answers.

As a serialised ``tensorflow.serving.PredictionLog`` (TF-G18), whatever protocol it came by. The same record
is a warm-up request. It knows no file.

Pure.
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
    """A PredictionLog.

    Args:
        time: Seconds since 1970.

    Raises:
        InvalidInput, Unsupported: an answer to Classify or Regress has not the form of one.
    """
    made = _MESSAGES["PredictionLog"]()
    metadata = made.log_metadata
    write_spec(metadata.model_spec, event.response, event.signature)
    metadata.sampling_config.sampling_rate = event.wish.rate
    metadata.timestamp_secs = time
    match event.api:
        case "Classify":
            _write_head(made.classify_log, CLASSIFY, event)
        case "Regress":
            _write_head(made.regress_log, REGRESS, event)
        case "MultiInference":
            _write_task(made.multi_inference_log, event)
        case _:
            _write_predict(made.predict_log, event)
    return made.SerializeToString()  # type: ignore[no-any-return]


def size_of(event: Predicted) -> int:
    """About how many bytes its tensors hold."""
    return sum(_bytes(tensor) for tensor in (*event.request.inputs, *event.response.outputs))


def _bytes(tensor: Tensor) -> int:
    array = tensor.array
    own = sum(map(len, array.ravel().tolist())) if array.dtype == object else 0
    return array.nbytes + own


def _write_predict(log: Any, event: Predicted) -> None:
    write_spec(log.request.model_spec, event.response, event.signature)
    write_spec(log.response.model_spec, event.response, event.signature)
    log.request.output_filter.extend([output.name for output in event.request.outputs])
    for made, tensors in (
        (log.request.inputs, event.request.inputs),
        (log.response.outputs, event.response.outputs),
    ):
        for tensor in tensors:
            made[tensor.name].MergeFromString(tf_tensor.to_bytes(tensor.datatype, tensor.array))


def _write_head(log: Any, method: str, event: Predicted) -> None:
    write_spec(log.request.model_spec, event.response, event.signature)
    write_spec(log.response.model_spec, event.response, event.signature)
    examples = _write_examples(log.request.input, event)
    write_result(log.response.result, method, event.response.outputs, examples)


def _write_task(log: Any, event: Predicted) -> None:
    method = REGRESS if any(tensor.name == OUTPUTS for tensor in event.response.outputs) else CLASSIFY
    task = log.request.tasks.add(method_name=method)
    write_spec(task.model_spec, event.response, event.signature)
    examples = _write_examples(log.request.input, event)
    answer = log.response.results.add()
    write_spec(answer.model_spec, event.response, event.signature)
    result = answer.regression_result if method == REGRESS else answer.classification_result
    write_result(result, method, event.response.outputs, examples)


def _write_examples(made: Any, event: Predicted) -> int:
    examples: list[bytes] = event.request.inputs[0].array.ravel().tolist()
    made.example_list.examples.extend(examples)
    return len(examples)
