"""Answers in the files of a prediction log, with the ids of their requests. Blocking."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.heads import OUTPUTS, SCORES
from salver.dialects.tensorflow.recordfile import SUFFIX
from salver.dialects.tensorflow.tf_schema import build_unread
from salver.dialects.tensorflow.tfrecord import records
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

_MESSAGES: Final = build_unread()
_MOST: Final = 1 << 30  # bytes of a file


class LoggedAnswer(NamedTuple):
    """Answer of a prediction log.

    Attributes:
        request: Id of the request; empty = another program wrote it.
        time: Unix seconds.
        outputs: Arrays by name.
    """

    request: str
    model: str
    version: str
    time: int
    outputs: Mapping[str, Array]


def log_files(path: Path) -> list[Path]:
    """Return the files of a prediction log in the order in which they were written; a file is itself.

    Raises:
        InvalidInput: there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.glob(f"*{SUFFIX}"), key=lambda file: (file.stat().st_mtime, file.name))
    if not found:
        raise InvalidInput(f"{path} has no prediction log", fix="Name the folder of --prediction-log.")
    return found


def logged_answers(path: Path) -> Iterator[LoggedAnswer]:
    """Yield the answers in a file; a server may still write it.

    Raises:
        InvalidInput: it is damaged, or no prediction log.
    """
    try:
        if path.stat().st_size > _MOST:
            raise InvalidInput(f"{path} is larger than {_MOST} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    for index, one in enumerate(records(content, is_growing=True)):
        try:
            log = _MESSAGES["PredictionLog"].FromString(one)
        except DecodeError as error:
            raise InvalidInput(f"{path}: record {index} is no PredictionLog: {error}") from error
        about = log.log_metadata
        spec = about.model_spec
        version = str(spec.version.value)
        yield LoggedAnswer(about.request_origin, spec.name, version, about.timestamp_secs, _outputs(log))


def _outputs(log: Any) -> dict[str, Array]:
    """Return the outputs; none for a task of several, whose request has one id for all of them."""
    match log.WhichOneof("log_type"):
        case "predict_log":
            budget = tf_tensor.FillBudget()
            protos = log.predict_log.response.outputs
            return {name: tf_tensor.read(protos[name], name, budget).array for name in protos}
        case "classify_log":
            rows = log.classify_log.response.result.classifications
            scores = [[each.score for each in row.classes] for row in rows]
            if len({len(row) for row in scores}) == 1:
                return {SCORES: np.array(scores)}
        case "regress_log":
            values = log.regress_log.response.result.regressions
            return {OUTPUTS: np.array([each.value for each in values])}
    return {}
