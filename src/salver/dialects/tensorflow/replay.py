"""Warm-up requests beside a SavedModel, which are run before traffic (TF-L9).

``assets.extra/tf_serving_warmup_requests`` is a TFRecord file of PredictionLog records, like prediction logs.
A record that fails makes the load fail.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.grpc_codec import HeadCodec, ModelSpec, TaskCodec, check_tasks, parse
from salver.dialects.tensorflow.heads import CLASSIFY, REGRESS
from salver.dialects.tensorflow.predict_codec import Predict, PredictMessage, PredictMessages, parse_predict
from salver.dialects.tensorflow.rules import DEFAULT, TfsRules
from salver.dialects.tensorflow.tfrecord import records
from salver.words.errors import LoadFailed, SalverError
from salver.words.events import Lineage, Replayed
from salver.words.messages import InferRequest, ModelId, Signature
from salver.words.tensor import Array, DataType

RECORDS: Final = Path("assets.extra", "tf_serving_warmup_requests")
MLMD: Final = Path("assets.extra", "mlmd_uuid")
_MOST: Final = 1000
_MOST_BYTES: Final = 1 << 30
_MOST_UUID: Final = 256
_MOST_SAMPLES: Final = 16  # per signature
_RULES: Final = TfsRules()
_METHODS: Final = {"classify_log": CLASSIFY, "regress_log": REGRESS}


class Replay:
    """Runs the records of one SavedModel.

    Args:
        savedmodel: Folder of the SavedModel.
        emit: Receives events about what was run, and about the SavedModel's id in ML Metadata.
    """

    def __init__(
        self,
        id: ModelId,
        savedmodel: Path,
        clock: Callable[[], float],
        emit: Callable[[Replayed | Lineage], None],
    ) -> None:
        self._id = id
        self._path = savedmodel
        self._clock = clock
        self._emit = emit

    def __repr__(self) -> str:
        return f"<Replay of {self._path / RECORDS}>"

    async def run(
        self, signature: Signature, ask: Callable[[InferRequest], Awaitable[object]], times: int
    ) -> bool:
        """Run every record ``times`` times; return False if there are none.

        Raises:
            LoadFailed: The file cannot be used, or a record failed.
        """
        if uuid := await asyncio.to_thread(read_mlmd, self._path):
            self._emit(Lineage(self._id, uuid))
        found = await asyncio.to_thread(read_records, self._path) if times else []
        began, count, why = self._clock(), 0, ""
        try:
            for record in found * times:
                for request in requests_of(record, self._id.name, signature):
                    await ask(request)
                count += 1
        except SalverError as error:
            why = error.code.value
            where = f"warm-up record {count % len(found)} of {self._path / RECORDS}"
            raise LoadFailed(f"{where} failed: {error}") from error
        finally:
            if found:
                self._emit(Replayed(self._id, str(self._path), count, self._clock() - began, why))
        return bool(found)


def read_records(savedmodel: Path) -> list[bytes]:
    """Return the records of a SavedModel; none if it has no such file. Blocking.

    Raises:
        LoadFailed: The file cannot be read, is damaged, or holds too much.
    """
    path = savedmodel / RECORDS
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LoadFailed(f"warm-up records {path} are larger than {_MOST_BYTES} bytes")
        found = list(records(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LoadFailed(f"cannot read the warm-up records {path}: {error.strerror}") from error
    except SalverError as error:
        raise LoadFailed(f"cannot read the warm-up records {path}: {error}") from error
    if len(found) > _MOST:
        raise LoadFailed(f"Number of warmup records exceeds the maximum ({_MOST}) at {path}")
    return found


def read_mlmd(savedmodel: Path) -> str:
    """Return a SavedModel's id in ML Metadata (TF-L10); empty = none. Blocking."""
    try:
        with (savedmodel / MLMD).open("rb") as file:
            return file.read(_MOST_UUID).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def requests_of(record: bytes, model: str, signature: Signature) -> Iterator[InferRequest]:
    """Yield the requests of a record.

    Args:
        model: Name of the model, which replaces the one in the record.

    Raises:
        SalverError: It is no record, of an unknown kind, or does not fit the model.
    """
    log = parse("PredictionLog", record)
    kind = log.WhichOneof("log_type")
    match kind:
        case "predict_log":
            message = log.predict_log.request.SerializeToString()
            body = PredictMessage(message, None, parse_predict(message))
            codec = Predict(_spec(model, body.parsed), _RULES, PredictMessages())
            yield codec.decode(body, signature)
        case "classify_log" | "regress_log":
            request, method = getattr(log, kind).request, _METHODS[kind]
            yield HeadCodec(_spec(model, request), _RULES, method).decode(request.input, signature)
        case "multi_inference_log":
            request = log.multi_inference_log.request
            tasks = [(_spec(model, task), task.method_name) for task in request.tasks]
            check_tasks(tasks, signature, _RULES)
            for spec, method in tasks:
                yield TaskCodec(spec, _RULES, method).decode(request.input, signature)
        case _:
            raise LoadFailed(f"Unsupported log_type for warmup: {kind or 'none'}")


def samples_in(found: Sequence[bytes]) -> dict[str, list[dict[str, Array]]]:
    """Return numeric inputs of Predict records by signature, for code that has no signature yet."""
    samples: dict[str, list[dict[str, Array]]] = {}
    for record in found:
        try:
            log = parse("PredictionLog", record)
            if log.WhichOneof("log_type") != "predict_log":
                continue
            request = parse_predict(log.predict_log.request.SerializeToString())
            budget = tf_tensor.FillBudget()
            tensors = [tf_tensor.read(proto, name, budget) for name, proto in request.inputs.items()]
        except SalverError:
            continue  # the load reports it
        own = samples.setdefault(request.model_spec.signature_name or DEFAULT, [])
        if len(own) < _MOST_SAMPLES and not any(t.datatype is DataType.BYTES for t in tensors):
            own.append({tensor.name: tensor.array for tensor in tensors})
    return {key: own for key, own in samples.items() if own}


def samples_of(savedmodel: Path) -> dict[str, list[dict[str, Array]]]:
    """Return the samples in the records of a SavedModel. Blocking. Raises as :func:`read_records`."""
    return samples_in(read_records(savedmodel))


def _spec(model: str, request: Any) -> ModelSpec:
    return ModelSpec(model, signature=request.model_spec.signature_name)
