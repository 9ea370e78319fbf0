"""Profiles and tables on disk: whatever lies there, a model is served."""

import logging
import os
from pathlib import Path

import pytest

from salver.backends.onnx import OnnxBackend
from salver.features.tuning.profile import Machine, Profile
from salver.features.tuning.profiles import ProfileStore, digest, machine
from salver.features.tuning.training import price_of, solved_table
from salver.stats import batch_table
from salver.stats.batch_law import BatchLaw
from salver.terminal.options import default_state_dir
from salver.words.artifacts import Batching, LearnedPolicy, Manifest, ModelConfig, Warmup
from salver.words.messages import ModelId

HERE = Machine("cpu", 2, {"salver": "1"})
PROFILE = Profile("k", HERE).with_law(1, 2, BatchLaw(0.001, 0.004), 1.0)
TABLE = solved_table(
    BatchLaw(0.001, 0.004), price_of(LearnedPolicy(energy_weight=1.0), BatchLaw(0.001, 0.004)), 4
)


def manifest(path: Path, **config) -> Manifest:
    return Manifest(ModelId("m", "1"), path, "onnx", "onnx", ModelConfig(**config), "print")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = ProfileStore(str(tmp_path / "not" / "yet"))
    assert store.read("k", HERE) is None
    store.write(PROFILE)
    store.write_table("t", batch_table.to_bytes(TABLE))
    assert ProfileStore(str(tmp_path / "not" / "yet")).read("k", HERE) == PROFILE
    assert store.read_table("t") == TABLE
    assert store.read_table("k") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 7}', b"\xff\xfe", b"x" * (2 << 20)])
@pytest.mark.parametrize("kind", ["profiles", "tables"])
def test_a_broken_file_is_as_none(tmp_path: Path, kind: str, content: bytes) -> None:
    store = ProfileStore(str(tmp_path))
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "k.json").write_bytes(content)
    assert store.read("k", HERE) is None
    assert store.read_table("k") is None


def test_a_profile_in_the_place_of_another_does_not_count(tmp_path: Path) -> None:
    store = ProfileStore(str(tmp_path))
    store.write(PROFILE)
    (tmp_path / "profiles" / "k.json").rename(tmp_path / "profiles" / "other.json")
    assert store.read("other", HERE) is None


def test_a_place_that_cannot_be_written_is_told_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = ProfileStore(str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        store.write(PROFILE)
    assert "cannot be written: Not a directory" in caplog.text
    assert store.read("k", HERE) is None


def test_without_a_state_directory_nothing_is_kept() -> None:
    store = ProfileStore("")
    store.write(PROFILE)
    store.write_table("t", b"x")
    assert store.read("k", HERE) is None
    assert store.read_table("t") is None


def test_the_oldest_files_go(tmp_path: Path) -> None:
    store = ProfileStore(str(tmp_path))
    (tmp_path / "tables").mkdir()
    for number in range(600):
        file = tmp_path / "tables" / f"{number}.json"
        file.touch()
        os.utime(file, (number, number))
    store.write_table("new", batch_table.to_bytes(TABLE))
    left = {file.stem for file in (tmp_path / "tables").iterdir()}
    assert left == {"new", *(str(number) for number in range(89, 600))}


def test_a_file_outside_of_a_version_folder_goes_by_its_content_and_its_warm_up(tmp_path: Path) -> None:
    path, store = tmp_path / "m.onnx", ProfileStore()
    path.write_bytes(b"a")
    key = store.key(manifest(path))
    (tmp_path / "other.onnx").write_bytes(b"b")
    assert store.key(manifest(path)) == key
    asked = manifest(path, warmup=Warmup(file="ask.json"))
    (tmp_path / "ask.json").write_text("1")
    first = store.key(asked)
    (tmp_path / "ask.json").write_text("2")
    assert len({key, first, store.key(asked)}) == 3


def test_a_table_is_of_one_price_and_batch_limit(tmp_path: Path) -> None:
    path, store = tmp_path / "m.onnx", ProfileStore()
    path.write_bytes(b"a")
    settings = (Batching(), Batching(max_rows=8), Batching(learned=LearnedPolicy(energy_weight=1.0)))
    assert len({store.table_key(manifest(path), batching) for batching in settings}) == 3
    same = Batching(max_queue=7)
    assert store.table_key(manifest(path), same) == store.table_key(manifest(path), settings[0])


def test_a_folder_is_all_of_its_files_wherever_it_lies(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "variables" / "data").write_bytes(b"weights")
        (tmp_path / name / ".hidden").write_text(name)
        (tmp_path / name / "loop").symlink_to(tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != ""
    (tmp_path / "b" / "variables" / "data").rename(tmp_path / "b" / "data")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    assert digest(tmp_path / "nowhere") == ""


def test_frameworks_are_known_by_the_package_that_brings_them() -> None:
    class Backend(OnnxBackend):
        modules = ("simdjson", "google.protobuf", "no_such_module")

    here = machine(Backend(), 3)
    assert set(here.versions) >= {"salver", "pysimdjson", "protobuf"}
    assert all(here.versions.values())
    assert here.cores == 3
    assert here.cpu


@pytest.mark.parametrize(
    ("base", "expected"),
    [("/var/x", "/var/x/salver"), ("", "/h/.local/state/salver"), ("x", "/h/.local/state/salver")],
)
def test_the_state_directory_is_where_the_specification_has_it(
    monkeypatch: pytest.MonkeyPatch, base: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_STATE_HOME", base)
    assert default_state_dir() == expected
