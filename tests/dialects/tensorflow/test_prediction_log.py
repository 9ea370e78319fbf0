"""Log files of requests and answers: rotated, bounded, and without delay of requests."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_S

from salver.dialects.tensorflow.prediction_log import PredictionLog
from salver.dialects.tensorflow.recordfile import RecordFiles
from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tfrecord import record, records
from salver.words.artifacts import Logging
from salver.words.errors import InvalidInput
from salver.words.events import Predicted, StateChanged
from salver.words.messages import InferRequest, InferResponse, ModelId, State
from salver.words.tensor import tensor

_NOW = 1_700_000_000.0  # 2023-11-14, 22:13:20
_STAMP = "20231114T221320"
_WISH = Logging(rate=1.0)


def _event(value: float = 1.0, model: str = "m", wish: Logging = _WISH, **more: Any) -> Predicted:
    x = tensor("x", np.array([value], np.float32) if "api" not in more else ["an example"])
    return Predicted(
        InferRequest(model, (x,)), InferResponse(model, "1", (x,)), more.get("api", ""), "s", wish
    )


def _values(folder: Path, pattern: str = "*") -> list[float]:
    found = []
    for path in sorted(folder.glob(pattern)):
        for content in records(path.read_bytes()):
            log = build()["PredictionLog"].FromString(content)
            found.append(log.predict_log.request.inputs["x"].float_val[0])
    return found


@pytest.mark.clause("TF-G18")
async def test_records_are_written_off_the_loop(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "new" / "folder", lambda: _NOW)
    log.observe([_event(1), StateChanged(ModelId("m", "1"), State.NEW, State.LOADING), _event(2)])
    log.observe([_event(3, "other")])
    await log.close()
    assert _values(tmp_path / "new" / "folder", "m-*") == [1, 2]
    assert [path.name for path in sorted((tmp_path / "new" / "folder").iterdir())] == [
        f"m-{_STAMP}-00000.tfrecord",
        f"other-{_STAMP}-00000.tfrecord",
    ]
    assert log.counts() == {("m", "OK"): 2, ("other", "OK"): 1}


@pytest.mark.clause("TF-G18")
async def test_tensorflow_reads_the_files(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog as Theirs

    log = PredictionLog(tmp_path, lambda: _NOW)
    log.observe([_event(value) for value in range(300)])
    await log.close()
    path = tmp_path / f"m-{_STAMP}-00000.tfrecord"
    read = [Theirs.FromString(content.numpy()) for content in tf.data.TFRecordDataset(str(path))]
    assert [r.predict_log.request.inputs["x"].float_val[0] for r in read] == list(range(300))


async def test_a_slow_disk_loses_records_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    whole = RecordFiles.append

    def slow(self: RecordFiles, *args: Any) -> None:
        assert gate.wait(PATIENCE_S)
        whole(self, *args)

    monkeypatch.setattr(RecordFiles, "append", slow)
    log = PredictionLog(tmp_path, lambda: _NOW, limit=8 * 5)
    with caplog.at_level(logging.WARNING):
        log.observe([_event(1)])
        await asyncio.sleep(0.01)  # the first one is under way, and still in memory
        log.observe([_event(value) for value in range(2, 10)])
    assert log.counts() == {("m", "RESOURCE_EXHAUSTED"): 4}
    assert log.lost == 4
    gate.set()
    await log.close()
    assert _values(tmp_path) == [1, 2, 3, 4, 5]
    assert log.counts() == {("m", "OK"): 5, ("m", "RESOURCE_EXHAUSTED"): 4}
    assert [r.getMessage() for r in caplog.records if r.name == "salver.predictions"] == [
        "requests to m are not logged: they come faster than the disk can write"
    ]
    log.observe([_event(11)])  # there is room again
    await log.close()
    assert 11 in _values(tmp_path)


async def test_a_disk_that_fails_and_answers_that_are_none_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RecordFiles, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    log = PredictionLog(tmp_path, lambda: _NOW)
    log.observe([_event(api="Regress")])
    await log.close()
    assert log.counts() == {("m", "INVALID_ARGUMENT"): 1}
    monkeypatch.setattr(RecordFiles, "append", full)
    log.observe([_event(), _event()])
    await log.close()
    assert log.counts() == {("m", "INVALID_ARGUMENT"): 1, ("m", "UNAVAILABLE"): 2}
    assert log.lost == 3


async def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="requests cannot be logged in"):
        PredictionLog(tmp_path / "file" / "log")


def _files(folder: Path, wish: Logging, contents: list[bytes], model: str = "m") -> None:
    files = RecordFiles(folder, lambda: _NOW)
    for content in contents:
        files.append(model, wish, content)
    files.flush()
    files.close()


def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "m-of-somebody-else").touch()
    (tmp_path / "m-20200101T000000-00007.tfrecord").touch()
    (tmp_path / "m2-20200101T000000-00007.tfrecord").touch()
    content = b"a" * (1 << 19)
    _files(tmp_path, Logging(max_mb=1, files=3), [content] * 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"m-{_STAMP}-00002.tfrecord",
        f"m-{_STAMP}-00003.tfrecord",
        f"m-{_STAMP}-00004.tfrecord",
        "m-of-somebody-else",
        "m2-20200101T000000-00007.tfrecord",
    ]
    sizes = [(tmp_path / f"m-{_STAMP}-{n:05}.tfrecord").stat().st_size for n in (2, 3, 4)]
    assert sizes == [1 << 20, 1 << 20, 1 << 19]


def test_a_record_larger_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    _files(tmp_path, Logging(max_mb=1), [b"a", b"b" * (3 << 20), b"c"])
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes == [1, 3 << 20, 1]


def test_a_server_that_began_in_the_same_second_keeps_its_file(tmp_path: Path) -> None:
    for content in (record(b"one"), record(b"two")):
        _files(tmp_path, Logging(), [content])
    found = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert [list(records(file)) for file in found] == [[b"one"], [b"two"]]


@pytest.mark.parametrize(
    ("model", "prefix", "begins"),
    [
        ("m", "", "m-"),
        ("m", "shared", "shared-"),
        ("../up/m", "", "_up_m-"),
        ("..", "", "_-"),
        ("ä b", "", "__b-"),
    ],
)
def test_names_of_files_lead_nowhere_else(tmp_path: Path, model: str, prefix: str, begins: str) -> None:
    _files(tmp_path / "log", Logging(prefix=prefix), [b"a"], model)
    assert [path.name[: len(begins)] for path in (tmp_path / "log").iterdir()] == [begins]
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_readers_see_whole_records_while_the_server_runs(tmp_path: Path) -> None:
    files = RecordFiles(tmp_path, lambda: _NOW)
    files.append("m", Logging(), record(b"one"))
    files.flush()
    (path,) = tmp_path.iterdir()
    assert list(records(path.read_bytes())) == [b"one"]
    files.close()
