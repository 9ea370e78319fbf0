"""Which requests did a SavedModel's author leave with it, to be run before there is traffic (TF-L9)?

``assets.extra/tf_serving_warmup_requests``, a TFRecord file of PredictionLog records, as prediction logs are.
A record that fails fails the load. Who answers them, it does not know.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.grpc_codec import Head, ModelSpec, Task, check_tasks, parse
from salver.dialects.tensorflow.heads import CLASSIFY, DEFAULT, REGRESS
from salver.dialects.tensorflow.predict_codec import Predict, PredictMessage, PredictMessages, parse_predict
from salver.dialects.tensorflow.rules import TfsRules
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
_MOST_SAMPLES: Final = 16  # of a signature
_RULES: Final = TfsRules()


class Replay:
    """Runs the records of one SavedModel.

    Args:
        savedmodel: Its folder.
        emit: Told of what was run, and of the SavedModel's id in ML Metadata.
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
        """Ask everything so often; False = there are no records.

        Raises:
            LoadFailed: the file cannot be used, or a record failed.
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
    """The records of a SavedModel; none where it has no such file. Blocking.

    Raises:
        LoadFailed: the file cannot be read, is damaged, or holds too much.
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
    """Its id in ML Metadata (TF-L10), or empty. Blocking."""
    try:
        with (savedmodel / MLMD).open("rb") as file:
            return file.read(_MOST_UUID).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def requests_of(record: bytes, model: str, signature: Signature) -> Iterator[InferRequest]:
    """What a record asks.

    Args:
        model: Who is asked, whatever name the record has.

    Raises:
        SalverError: it is no record, of no known kind, or does not fit the model.
    """
    log = parse("PredictionLog", record)
    kind = log.WhichOneof("log_type")
    match kind:
        case "predict_log":
            message = log.predict_log.request.SerializeToString()
            asked = PredictMessage(message, None, parse_predict(message))
            codec = Predict(_whom(model, asked.parsed), _RULES, PredictMessages())
            yield codec.decode(asked, signature)
        case "classify_log" | "regress_log":
            request, method = getattr(log, kind).request, CLASSIFY if kind == "classify_log" else REGRESS
            yield Head(_whom(model, request), _RULES, method).decode(request.input, signature)
        case "multi_inference_log":
            request = log.multi_inference_log.request
            tasks = [(_whom(model, task), task.method_name) for task in request.tasks]
            check_tasks(tasks, signature, _RULES)
            for spec, method in tasks:
                yield Task(spec, _RULES, method).decode(request.input, signature)
        case _:
            raise LoadFailed(f"Unsupported log_type for warmup: {kind or 'none'}")


def samples_in(found: Sequence[bytes]) -> dict[str, list[dict[str, Array]]]:
    """Inputs of Predict records that are numbers alone, by signature, for whoever knows no signature yet."""
    samples: dict[str, list[dict[str, Array]]] = {}
    for record in found:
        try:
            log = parse("PredictionLog", record)
            if log.WhichOneof("log_type") != "predict_log":
                continue
            request = parse_predict(log.predict_log.request.SerializeToString())
            room = tf_tensor.Room()
            tensors = [tf_tensor.read(proto, name, room) for name, proto in request.inputs.items()]
        except SalverError:
            continue  # the load will say so
        mine = samples.setdefault(request.model_spec.signature_name or DEFAULT, [])
        if len(mine) < _MOST_SAMPLES and not any(t.datatype is DataType.BYTES for t in tensors):
            mine.append({tensor.name: tensor.array for tensor in tensors})
    return {key: mine for key, mine in samples.items() if mine}


def samples_of(savedmodel: Path) -> dict[str, list[dict[str, Array]]]:
    """Return the samples in the records of a SavedModel. Blocking.

    Raises:
        LoadFailed: as of :func:`read_records`.
    """
    return samples_in(read_records(savedmodel))


def _whom(model: str, request: Any) -> ModelSpec:
    return ModelSpec(model, signature=request.model_spec.signature_name)
