"""Models from an object store: an S3 server of this process."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import KEYS, S3, s3_server
from sites import Page, Site

from salver.stores import StoreFailed
from salver.stores.distant import ObjectStore
from salver.stores.sources import FetchedModel, silent
from salver.stores.sources.opening import Options, open_source
from salver.words.errors import InvalidInput

LARGE = bytes(range(256)) * (9 << 12)  # more than one piece


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as all:
            all.addfile(tarfile.TarInfo("m/model.onnx"))
        files = {
            "m/model.onnx": LARGE,
            "m/README.md": b"# Card",
            "m/deep/labels.txt": b"",
            "m.tgz": packed.getvalue(),
        }
        server.put("models", files)
        yield server


def fetch(url: str, folder: Path, told: list[tuple[int, int]] | None = None) -> FetchedModel:
    def progress(what: str, done: int, whole: int) -> None:
        if told is not None:
            told.append((done, whole))

    folder.mkdir()
    return open_source(url, Options(environment=KEYS)).fetch(folder, progress)


def test_a_folder_comes_whole(s3: S3, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = fetch(s3.url("models/m"), tmp_path / "in", told)
    assert (found.path / "model.onnx").read_bytes() == LARGE
    assert (found.path / "deep" / "labels.txt").read_bytes() == b""
    assert found.card == "# Card"
    assert told[-1] == (len(LARGE) + 6, len(LARGE) + 6)
    assert len(told) == 3
    assert found.source.startswith(f"{s3.url('models/m')}#listing=")


def test_one_object_and_its_pointer(s3: S3, tmp_path: Path) -> None:
    found = fetch(s3.url("models/m/README.md"), tmp_path / "a")
    again = fetch(s3.url("models/m/README.md"), tmp_path / "b")
    assert (found.path.name, found.path.read_bytes()) == ("README.md", b"# Card")
    assert found.source == again.source
    s3.put("models", {"m/README.md": b"# Other"})
    assert fetch(s3.url("models/m/README.md"), tmp_path / "c").source != found.source
    s3.put("models", {"m/README.md": b"# Card"})


def test_an_archive_is_unpacked(s3: S3, tmp_path: Path) -> None:
    found = fetch(s3.url("models/m.tgz"), tmp_path / "in")
    assert [path.name for path in found.path.iterdir()] == ["model.onnx"]


def test_what_an_mlflow_server_has_in_a_bucket(
    s3: S3, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("models", {"lin/MLmodel": b"flavors: {onnx: {data: lin.onnx}}", "lin/lin.onnx": b"weights"})
    for path, said in {
        "get": {"model_version": {"name": "lin", "version": "7"}},
        "get-download-uri": {"artifact_uri": "s3://models/lin"},
    }.items():
        site.pages[f"/api/2.0/mlflow/model-versions/{path}"] = Page(json.dumps(said).encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.host}")
    (tmp_path / "in").mkdir()
    source = open_source("models:/lin/7", Options(environment={**KEYS, "MLFLOW_TRACKING_URI": site.url}))
    found = source.fetch(tmp_path / "in", silent)
    assert (found.source, (found.path / "lin.onnx").read_bytes()) == ("models:/lin/7", b"weights")


def test_nothing_there_is_told(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds 0 files"):
        fetch(s3.url("models/none"), tmp_path / "in")


def test_what_changes_meanwhile_is_not_taken(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = ObjectStore.fetch

    def changing(store: ObjectStore, path: str, start: int, end: int) -> bytes:
        s3.put("changing", {"m/other": b"more"})
        return fetched(store, path, start, end)

    s3.put("changing", {"m/model.onnx": b"weights"})
    monkeypatch.setattr(ObjectStore, "fetch", changing)
    with pytest.raises(StoreFailed, match="changed while it was read"):
        fetch(s3.url("changing/m"), tmp_path / "in")


def test_a_bucket_that_is_no_bucket() -> None:
    with pytest.raises(InvalidInput):
        open_source("s3://", Options(environment={}))
