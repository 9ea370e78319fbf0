"""Archives of handlers in an ordinary repository: names, versions, wishes (TS-A1)."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from salver.backends.protocol import ArtifactKind
from salver.dialects.torchserve.archive import with_archive
from salver.dialects.torchserve.archive_files import MANIFEST
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.words.artifacts import Manifest, Versions
from salver.words.handlers import FORMAT, Workers


def recognise(path: Path) -> ArtifactKind | None:
    if path.is_dir():
        return ArtifactKind(FORMAT, FORMAT) if (path / MANIFEST).is_file() else None
    if path.name.endswith((".mar", ".tar.gz")):
        return ArtifactKind(FORMAT, FORMAT)
    return ArtifactKind("onnx", "onnx") if path.suffix == ".onnx" else None


def mar(path: Path, name: str = "noop", version: str = "1.0", yaml: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = {"modelName": name, "modelVersion": version, "handler": "noop.py"}
    if yaml:
        model["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(MANIFEST, json.dumps({"model": model}))
        opened.writestr("noop.py", "def handle(data, context):\n    return data\n")
        if yaml:
            opened.writestr("model-config.yaml", yaml)
    return path


def scan(*paths: Path) -> dict[str, Manifest]:
    return {str(m.id): m for m in Repository(paths, formats(recognise)).scan(0.0)}


@pytest.mark.clause("TS-A1")
def test_name_and_version_are_the_archives_own(tmp_path: Path) -> None:
    found = scan(mar(tmp_path / "some file.mar", "ranker", "2.1-beta"))
    assert found.keys() == {"ranker:2.1-beta"}
    manifest = found["ranker:2.1-beta"]
    assert (manifest.backend, manifest.format, manifest.problem) == (FORMAT, FORMAT, "")
    assert manifest.path == tmp_path / "some file.mar"  # unpacked when it is loaded, not when it is found
    assert manifest.config.workers == Workers()
    assert manifest.config.versions == Versions(all=True)
    assert manifest.body


@pytest.mark.clause("TS-A1", "TS-Y1")
def test_a_store_of_archives_and_folders(tmp_path: Path) -> None:
    mar(tmp_path / "noop.mar")
    mar(tmp_path / "noop_v2.mar", version="2.0", yaml="batchSize: 4\nbatch_size: 3\n")
    (tmp_path / "open" / "MAR-INF").mkdir(parents=True)
    (tmp_path / "open" / MANIFEST).write_text('{"model": {"modelName": "folder", "handler": "x.py"}}')
    found = scan(tmp_path)
    assert found.keys() == {"noop:1.0", "noop:2.0", "folder:1.0"}
    assert not any(m.problem for m in found.values())
    assert found["noop:2.0"].config.workers == Workers(batch_size=4)
    assert found["noop:2.0"].notices == ("batch_size: left to the handler; the server's key is batchSize",)
    assert found["folder:1.0"].path == (tmp_path / "open").resolve()
    assert scan(tmp_path / "open").keys() == {"folder:1.0"}


@pytest.mark.clause("TS-A1")
def test_in_a_folder_of_versions_the_folders_name_it(tmp_path: Path) -> None:
    mar(tmp_path / "store" / "ranker" / "3" / "noop.mar", yaml="batchSize: 2")
    found = scan(tmp_path / "store")
    assert found.keys() == {"ranker:3"}
    assert found["ranker:3"].config.workers == Workers(batch_size=2)


@pytest.mark.clause("TS-A1")
def test_one_version_twice_is_told_and_others_are_not_harmed(tmp_path: Path) -> None:
    mar(tmp_path / "a.mar")
    mar(tmp_path / "b.mar")
    mar(tmp_path / "c.mar", version="2.0")
    mar(tmp_path / "both.mar", "both")
    (tmp_path / "both.onnx").write_text("x")
    found = scan(tmp_path)
    assert "used more than once" in found["noop:1.0"].problem
    assert not found["noop:2.0"].problem
    assert "used more than once" in found["both:1.0"].problem


@pytest.mark.clause("TS-Y1")
@pytest.mark.parametrize(
    ("yaml", "words"), [("batchSize: many", "batchSize is 'many'"), ("a: [", "is not valid YAML")]
)
def test_what_is_wrong_with_an_archive_is_told_and_harms_no_other(
    yaml: str, words: str, tmp_path: Path
) -> None:
    mar(tmp_path / "good.mar", "good")
    mar(tmp_path / "bad.mar", "bad", yaml=yaml)
    (tmp_path / "text.mar").write_text("not a model")
    found = scan(tmp_path)
    assert not found["good:1.0"].problem
    broken = [m for m in found.values() if m.problem]
    assert any(words in m.problem for m in broken)
    assert any("Model name is not defined." in m.problem for m in broken)


@pytest.mark.clause("TS-A1")
def test_an_archive_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar", version="1.0")
    repository = Repository([path], formats(recognise))
    before = repository.scan(0.0)
    mar(path, version="1.1", yaml="batchSize: 5")
    os.utime(path, ns=(1, 1))
    repository.scan(1.0)
    after = repository.scan(10.0)
    assert [str(m.id) for m in (*before, *after)] == ["noop:1.0", "noop:1.1"]
    assert after[0].config.workers == Workers(batch_size=5)


@pytest.mark.clause("TS-A1")
def test_a_manifest_without_its_yaml_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(MANIFEST, '{"model": {"modelName": "m", "configFile": "none.yaml"}}')
    (manifest,) = scan(path).values()
    assert "has no 'none.yaml'" in manifest.problem


@pytest.mark.clause("TS-A1")
def test_an_archive_that_may_not_be_unpacked_is_told_before_it_is_loaded(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("../evil.py", "x")
    (manifest,) = scan(path).values()
    assert "'../evil.py' is outside of it" in manifest.problem


@pytest.mark.clause("TS-A1")
def test_of_an_outline_the_rest_is_read_when_it_is_there(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar", "m", yaml="batchSize: 4")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("weights.bin", bytes(1 << 20))
    content = path.read_bytes()
    with path.open("wb") as file:  # as of an object store: its directory, and holes
        file.truncate(len(content))
        file.seek(content.find(b"PK\x01\x02"))
        file.write(content[file.tell() :])
    (manifest,) = scan(path).values()
    assert (str(manifest.id), manifest.problem, manifest.config.workers) == ("m:1.0", "", None)
    path.write_bytes(content)
    assert with_archive(manifest).config.workers == Workers(batch_size=4)
