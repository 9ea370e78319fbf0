"""Warm-up records of SavedModels: their requests, that they run, and that a bad one fails the load."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import savedmodels

from salver.backends.tensorflow import TensorFlowBackend
from salver.dialects.tensorflow.loading import ReplayAttachment
from salver.dialects.tensorflow.replay import (
    RECORDS,
    read_mlmd,
    read_records,
    requests_of,
    samples_in,
    samples_of,
)
from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tfrecord import record
from salver.features.twins.backend import read_twin
from salver.features.twins.twins import Twins
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest, ModelConfig, Warmup
from salver.words.errors import FailedPrecondition, InvalidInput, LoadFailed
from salver.words.events import Lineage, Replayed
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType

MESSAGES = build()


def example(**features: float) -> Any:
    made = MESSAGES["Example"]()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def predict(name: str, values: list[float], shape: list[int], signature: str = "") -> Any:
    log = MESSAGES["PredictionLog"]()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "by_another_name", signature
    tensor = request.inputs[name]
    tensor.dtype = 1
    tensor.float_val.extend(values)
    for extent in shape:
        tensor.tensor_shape.dim.add(size=extent)
    return log


def of_examples(kind: str, signature: str, *examples: Any) -> Any:
    log = MESSAGES["PredictionLog"]()
    request = getattr(log, kind).request
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return log


def several(*tasks: tuple[str, str]) -> Any:
    log = MESSAGES["PredictionLog"]()
    request = log.multi_inference_log.request
    for signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    request.input.example_list.examples.append(example(x=1))
    return log


def write(savedmodel: Path, *logs: Any) -> Path:
    path = savedmodel / RECORDS
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(record(log.SerializeToString()) for log in logs))
    return path


TEXT, VALUES = TensorSpec("inputs", DataType.BYTES, (-1,)), TensorSpec("outputs", DataType.FP32, (-1, 1))
REGRESS = Signature((TEXT,), (VALUES,), True, name="r", method="tensorflow/serving/regress")
SCORES = (TensorSpec("scores", DataType.FP32, (-1, 1)),)
CLASSIFY = Signature((TEXT,), SCORES, True, name="c", method="tensorflow/serving/classify")
X = (TensorSpec("x", DataType.FP32, (-1, 1)),)
MODEL = Signature(X, X, True, others=(REGRESS, CLASSIFY))


def asked(log: Any) -> list[tuple[str, str, list[Any]]]:
    found = requests_of(log.SerializeToString(), "m", MODEL)
    return [(r.signature, r.inputs[0].name, r.inputs[0].array.tolist()) for r in found]


class TestWhatARecordAsks:
    @pytest.mark.clause("TF-L9")
    def test_predict(self) -> None:
        assert asked(predict("x", [1, 2], [2, 1])) == [("", "x", [[1], [2]])]

    @pytest.mark.clause("TF-L9")
    @pytest.mark.parametrize(("kind", "signature"), [("classify_log", "c"), ("regress_log", "r")])
    def test_classify_and_regress(self, kind: str, signature: str) -> None:
        one = example(x=1)
        assert asked(of_examples(kind, signature, one)) == [(signature, "inputs", [one.SerializeToString()])]

    @pytest.mark.clause("TF-L9")
    def test_multi_inference(self) -> None:
        whole = [example(x=1).SerializeToString()]
        found = asked(several(("c", "classify"), ("r", "regress")))
        assert found == [("c", "inputs", whole), ("r", "inputs", whole)]

    def test_other_kinds_are_refused(self) -> None:
        log = MESSAGES["PredictionLog"]()
        log.session_run_log.request.model_spec.name = "m"
        with pytest.raises(LoadFailed, match="Unsupported log_type for warmup: session_run_log"):
            asked(log)
        with pytest.raises(LoadFailed, match="Unsupported log_type for warmup: none"):
            asked(MESSAGES["PredictionLog"]())

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(FailedPrecondition, match='Serving signature key "other" not found'):
            asked(predict("x", [1], [1, 1], "other"))
        with pytest.raises(InvalidInput, match=r"input size does not match|not found in request"):
            asked(predict("y", [1], [1, 1]))
        with pytest.raises(InvalidInput, match="not a PredictionLog"):
            list(requests_of(b"\xff", "m", MODEL))


class TestTheFile:
    def test_there_may_be_none(self, tmp_path: Path) -> None:
        assert read_records(tmp_path) == [] and read_mlmd(tmp_path) == ""

    def test_a_damaged_one_says_where(self, tmp_path: Path) -> None:
        path = write(tmp_path, predict("x", [1], [1, 1]))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            LoadFailed, match=r"cannot read the warm-up records .*record 0 at byte 0 is cut off"
        ):
            read_records(tmp_path)

    def test_a_thousand_are_enough(self, tmp_path: Path) -> None:
        log = predict("x", [1], [1, 1])
        write(tmp_path, *[log] * 1000)
        assert len(read_records(tmp_path)) == 1000
        write(tmp_path, *[log] * 1001)
        with pytest.raises(LoadFailed, match=r"exceeds the maximum \(1000\)"):
            read_records(tmp_path)

    def test_numbers_in_it_are_samples(self) -> None:
        logs = [
            predict("x", [1, 2], [2, 1]),
            predict("x", [3], [1, 1], "add"),
            of_examples("regress_log", "r"),
        ]
        found = samples_in([log.SerializeToString() for log in logs] + [b"\xff"])
        told = {key: [{n: a.tolist() for n, a in one.items()} for one in ones] for key, ones in found.items()}
        assert told == {"serving_default": [{"x": [[1], [2]]}], "add": [{"x": [[3]]}]}


class Rig:
    """Loads half_plus_three with records in it, on a thread."""

    def __init__(self, folder: Path) -> None:
        self.path = savedmodels.half_plus_three(folder / "1")
        self.events: list[Any] = []
        bus = Bus((self,))
        self.bus = bus
        additions = Additions(attachments=[ReplayAttachment(bus.emit, time.monotonic)])
        self.loader = Loader({"tensorflow": TensorFlowBackend()}, bus, time.monotonic, Terms(1), additions)

    def observe(self, events: Any) -> None:
        self.events += [event for event in events if isinstance(event, Replayed | Lineage)]

    async def load(self, **warmup: Any) -> Servable:
        from salver.words.artifacts import Instances

        config = ModelConfig(warmup=Warmup(**warmup), instances=Instances(runner="thread"))
        manifest = Manifest(ModelId("m", "1"), self.path, "savedmodel", "tensorflow", config)
        servable = await self.loader.load(manifest)
        try:
            await servable.warm(config)
        except LoadFailed:
            self.bus.flush()
            await servable.close()
            raise
        self.bus.flush()
        return servable


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield Rig(tmp_path)


@pytest.mark.clause("TF-L9")
async def test_records_are_run_before_there_is_traffic(rig: Rig) -> None:
    records = (
        predict("x", [1, 2], [2, 1]),
        predict("x", [1, 2], [2]),  # TensorFlow Serving compares no shapes
        of_examples("regress_log", "regress_x_to_y", example(x=1)),
        several(("classify_x_to_y", "classify"), ("regress_x_to_y", "regress")),
    )
    write(rig.path, *records)
    servable = await rig.load()
    await servable.close()
    (told,) = rig.events
    assert (told.id, told.path, told.records, told.ok) == (ModelId("m", "1"), str(rig.path), 4, True)


@pytest.mark.clause("TF-F10")
@pytest.mark.parametrize("replays", [0, 1, 3])
async def test_as_often_as_the_operator_says(rig: Rig, replays: int) -> None:
    write(rig.path, predict("x", [1], [1, 1]))
    servable = await rig.load(replays=replays)
    await servable.close()
    assert [event.records for event in rig.events] == ([replays] if replays else [])


@pytest.mark.clause("TF-L9")
@pytest.mark.parametrize(
    ("log", "why"),
    [
        (of_examples("regress_log", "regress_x_to_y", example(y=1)), "Feature: x .* is required"),
        (predict("x", [1], [1, 1], "nothing"), 'Serving signature key "nothing" not found'),
    ],
)
async def test_a_record_that_fails_fails_the_load(rig: Rig, log: Any, why: str) -> None:
    write(rig.path, predict("x", [1], [1, 1]), log)
    with pytest.raises(
        LoadFailed, match=rf"warm-up record 1 of .*tf_serving_warmup_requests failed: .*{why}"
    ):
        await rig.load()
    (told,) = rig.events
    assert (told.records, told.ok) == (1, False)


@pytest.mark.clause("TF-L10")
async def test_its_id_in_ml_metadata_is_announced(rig: Rig) -> None:
    (rig.path / "assets.extra").mkdir()
    (rig.path / "assets.extra" / "mlmd_uuid").write_text("5a7b-uuid\n")
    servable = await rig.load()
    await servable.close()
    assert rig.events == [Lineage(ModelId("m", "1"), "5a7b-uuid")]


async def test_numeric_records_check_the_onnx_twin(tmp_path: Path) -> None:
    folder = savedmodels.half_plus_three(tmp_path / "model" / "1")
    write(folder, predict("x", [1, 2], [2, 1]))
    twins = Twins(str(tmp_path / "state"), by_default=True, samples_of=samples_of)
    manifest = Manifest(ModelId("m", "1"), folder, "savedmodel", "tensorflow", fingerprint="f")
    found = await twins.find(manifest)
    assert found is not None
    backend, twin = found
    assert backend.rest == manifest and backend.runs[0] and not any(backend.runs[1:])
    assert read_twin(twin.path).parts[0].samples == 4
    assert await twins.find(manifest) is not None
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    again = await twins.find(msgspec.structs.replace(manifest, path=elsewhere))
    assert again is not None and again[1].path == twin.path, "what it holds decides, not where it lies"
    assert len(list((tmp_path / "state" / "twins").iterdir())) == 1


@pytest.mark.parametrize(
    ("wish", "by_default", "is_wanted"),
    [
        ("", False, False),
        ("", True, True),
        ("onnx", False, True),
        ("tensorflow", True, False),
    ],
)
def test_who_is_to_have_a_twin(wish: str, by_default: bool, is_wanted: bool) -> None:
    config = ModelConfig(options={"prefer": wish} if wish else {})
    manifest = Manifest(ModelId("m", "1"), Path("m"), "savedmodel", "tensorflow", config)
    twins = Twins(by_default=by_default)
    assert twins.is_wanted(manifest) == is_wanted
    assert not twins.is_wanted(Manifest(ModelId("m", "1"), Path("m"), "onnx", "onnx", config))


async def test_what_cannot_be_converted_is_left_to_tensorflow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Manifest(ModelId("m", "1"), tmp_path / "gone", "savedmodel", "tensorflow")
    twins = Twins(str(tmp_path / "state"), by_default=True)
    assert await twins.find(manifest) is None
    assert "m:1: cannot be converted to ONNX and runs with TensorFlow" in caplog.text
    assert list((tmp_path / "state" / "twins").iterdir()) == []
