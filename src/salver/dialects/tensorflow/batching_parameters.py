"""BatchingParameters of TensorFlow Serving (TF-C5), with its defaults and error texts. Pure."""

import itertools
from typing import Any, Final

from salver.dialects.tensorflow import tf_text
from salver.words.artifacts import Batching
from salver.words.errors import InvalidInput

_MAX_BATCH_SIZE: Final = 1000
_MAX_ENQUEUED_BATCHES: Final = 10
_MOST: Final = 1 << 20


def read_batching(content: bytes, path: str) -> Batching:
    """Return the batching that the content of a file describes. Raises InvalidInput."""
    return batching_of(tf_text.parse(content, "BatchingParameters", path))


def batching_of(parameters: Any) -> Batching:
    """Return the batching that a BatchingParameters message describes.

    Raises:
        InvalidInput: A value is out of its range.

    >>> from salver.dialects.tensorflow import tf_text
    >>> batching_of(tf_text.parse(b"max_batch_size { value: 8 }", "BatchingParameters", "")).max_queue_rows
    80
    """
    largest = _value(parameters, "max_batch_size", _MAX_BATCH_SIZE)
    batches = _value(parameters, "max_enqueued_batches", _MAX_ENQUEUED_BATCHES)
    timeout = _value(parameters, "batch_timeout_micros", 0, least=0)
    _value(parameters, "num_batch_threads", 1)
    rows = largest
    splits = parameters.enable_large_batch_splitting.value
    if splits:
        rows = _value(parameters, "max_execution_batch_size", largest)
        if rows > largest:
            raise InvalidInput(
                f"max_execution_batch_size must be less than or equal to max_batch_size; was {rows}"
            )
    _check_sizes(parameters.allowed_batch_sizes, rows, splits=splits)
    waiting = min(batches * rows, _MOST)
    return Batching(
        max_rows=rows,
        max_delay_ms=timeout / 1e3,
        max_queue=waiting,
        max_queue_rows=waiting,
        max_request_rows=largest,
        sizes=tuple(parameters.allowed_batch_sizes),
        pad=parameters.pad_variable_length_inputs,
    )


def _check_sizes(sizes: Any, rows: int, *, splits: bool) -> None:
    if any(a >= b for a, b in itertools.pairwise(sizes)) or any(size < 1 for size in sizes):
        raise InvalidInput("allowed_batch_sizes entries must be monotonically increasing")
    if sizes and sizes[-1] != rows:
        must = "match max_batch_size"
        if splits:
            must = "be equal to max_execution_batch_size"
        raise InvalidInput(
            f"Last entry in allowed_batch_sizes must {must}; last entry was {sizes[-1]}; expected {rows}"
        )


def _value(parameters: Any, name: str, default: int, least: int = 1) -> int:
    """Return a number that may be left out."""
    if not parameters.HasField(name):
        return default
    value: int = getattr(parameters, name).value
    if value < least:
        raise InvalidInput(f"{name} must be {'positive' if least else 'non-negative'}; was {value}")
    if value > _MOST and name != "batch_timeout_micros":
        raise InvalidInput(f"{name} is at most {_MOST}; was {value}")
    return value
