"""Buckets as stores: against an S3 server, and against one that misbehaves (TR-L2)."""

import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from s3 import KEYS, S3, s3_server

from salver.backends.content import head, tail, zip_members
from salver.stores import Copies, ObjectStore, Store, StoreFailed, open_store
from salver.stores.address import parse_address
from salver.stores.copies import wanted
from salver.stores.protocol import Entry
from salver.testing.stores import StoreConformance
from salver.words.errors import LoadFailed


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


class TestS3(StoreConformance):
    _names = (f"bucket-{n}" for n in range(1_000))

    @pytest.fixture(autouse=True)
    def _server(self, s3: S3) -> None:
        self._s3 = s3

    def make_store(self, files: Mapping[str, bytes], folder: Path) -> Store:
        bucket = next(self._names)
        self._s3.put(bucket, {f"models/{path}": content for path, content in files.items()})
        return open_store(self._s3.url(f"{bucket}/models"), Copies(), KEYS)

    def test_a_folder_of_too_many_is_refused(self, tmp_path: Path) -> None:
        objects = Bucket({f"many/{n:05}": b"" for n in range(10_001)})
        with pytest.raises(StoreFailed, match="more than 10000 entries"):
            objects.store(tmp_path).entries("many")


class Bucket:
    """A bucket in memory, in place of a cloud's library; counts what is fetched.

    Attributes:
        sealed: Keys that are listed, and that nobody may read.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.fetched = 0
        self.is_away = False
        self.sealed: set[str] = set()
        self.on_fetch = lambda: None

    def find(self, path: str, *, withdirs: bool, detail: bool) -> dict[str, dict[str, Any]]:
        if self.is_away:
            raise ConnectionError("nobody there")
        keys = {f"bucket/{name}": content for name, content in self.files.items()}
        return {
            key: {"size": len(content), "ETag": str(hash(content)), "type": "file"}
            for key, content in keys.items()
            if key == path or key.startswith(f"{path}/")
        }

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        if self.is_away:
            raise ConnectionError("nobody there")
        if path.removeprefix("bucket/") in self.sealed:
            raise PermissionError("access denied")
        content = self.files[path.removeprefix("bucket/")][start:end]
        self.fetched += len(content)
        self.on_fetch()
        return content

    def store(self, folder: Path) -> ObjectStore:
        return ObjectStore(parse_address("s3://bucket"), lambda: self, folder)


def test_only_the_ends_of_large_files_are_fetched_to_recognise_them(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 40_000
    bucket = Bucket({"m/1/model.onnx": weights, "m/1/deep/er/still/weights": weights, "m/config.pbtxt": b"x"})
    store = bucket.store(tmp_path)
    assert store.read("m/config.pbtxt", 10) == b"x"
    outline = store.local_path("m/1/model.onnx")
    assert (head(outline, 1000), tail(outline, 1000)) == (weights[:1000], weights[-1000:])
    assert outline.stat().st_size == len(weights)
    assert bucket.fetched < 200_000
    before = bucket.fetched
    store.refresh()
    assert bucket.fetched == before, "nothing has changed"
    bucket.files["m/1/model.onnx"] = weights[::-1]
    store.refresh()
    assert 0 < bucket.fetched - before < 200_000
    assert head(outline, 4) == weights[::-1][:4]


@pytest.mark.parametrize("members", [3, 3_000])
def test_archives_are_recognised_by_their_directory(tmp_path: Path, members: int) -> None:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(members):
            archive.writestr(f"archive/data/{number:060}", b"12345678" * 40_000 if number < 3 else b"")
    bucket = Bucket({"m.pt": content.getvalue()})
    store = bucket.store(tmp_path)
    store.refresh()
    assert len(zip_members(store.local_path("m.pt"))) == members
    assert bucket.fetched < len(content.getvalue())


def test_compressed_files_can_be_looked_into(tmp_path: Path) -> None:
    content = b"BZh9" + bytes(3 << 20)
    store = Bucket({"m.joblib": content}).store(tmp_path)
    store.refresh()
    assert head(store.local_path("m.joblib"), 1 << 20) == content[: 1 << 20]


def test_keys_that_could_lead_out_are_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [
        "../evil",
        "a/../../evil",
        "a//b",
        "a/./b",
        "a\\..\\b",
        "a/\x01",
        "a/" + "x" * 300,
        "f/below",
        "/etc",
    ]
    bucket = Bucket(dict.fromkeys(odd, b"evil") | {"a/fine": b"1", "f": b"2"})
    store = bucket.store(tmp_path)
    store.refresh()
    assert [e.name for e in store.entries("")] == ["a", "f"]
    assert [e.name for e in store.entries("a")] == ["fine"]
    assert "9 objects are passed over" in caplog.text
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]
    caplog.clear()
    store.refresh()
    assert caplog.text == "", "told once"


def test_a_file_becomes_a_folder_and_back(tmp_path: Path) -> None:
    bucket = Bucket({"m": b"file"})
    store = bucket.store(tmp_path)
    store.refresh()
    bucket.files = {"m/1/model.onnx": b"deep"}
    store.refresh()
    assert store.local_path("m/1/model.onnx").read_bytes() == b"deep"
    bucket.files = {"m": b"again"}
    store.refresh()
    assert store.local_path("m").read_bytes() == b"again"


def test_a_store_that_is_away_says_so_and_keeps_what_it_knew(tmp_path: Path) -> None:
    bucket = Bucket({"m/1/model.onnx": b"1"})
    store = bucket.store(tmp_path)
    store.refresh()
    bucket.is_away = True
    with pytest.raises(StoreFailed, match="s3://bucket cannot be read: ConnectionError: nobody there"):
        store.refresh()
    assert [e.name for e in store.entries("m/1")] == ["model.onnx"]


def test_an_object_that_nobody_may_read_is_passed_over_until_one_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Bucket({"m/1/model.onnx": b"1", "n/1/model.onnx": b"2"})
    bucket.sealed = {"n/1/model.onnx"}
    store = bucket.store(tmp_path)
    for _ in range(2):
        store.refresh()
        assert [e.name for e in store.entries("")] == ["m"]
    assert caplog.text.count("s3://bucket/n/1/model.onnx cannot be read: PermissionError") == 1
    bucket.sealed = set()
    store.refresh()
    assert [e.name for e in store.entries("")] == ["m", "n"]


def test_a_place_of_which_nothing_can_be_read_is_told(tmp_path: Path) -> None:
    bucket = Bucket({"m/1/model.onnx": b"1"})
    bucket.sealed = {"m/1/model.onnx"}
    with pytest.raises(StoreFailed, match="access denied"):
        bucket.store(tmp_path).refresh()


MODEL = {
    "m/config.pbtxt": b"c",
    "m/labels.txt": b"l",
    "m/1/model.onnx": b"one",
    "m/2/model.onnx": b"two" * 10_000_000,
    "m/2/sub/weights": b"",
    "n/1/model.onnx": b"other",
}


def hold(bucket: Bucket, copies: Copies, folder: Path, artefact: str, home: str) -> Any:
    store = bucket.store(folder)
    store.refresh()
    copies.add(store)
    return copies.hold(store, store.local_path(artefact), store.local_path(home), threading.Event())


@pytest.mark.clause("TR-L2")
def test_a_copy_is_whole_is_made_once_and_goes_with_its_last_holder(tmp_path: Path) -> None:
    bucket, copies = Bucket(MODEL), Copies()
    held, path = hold(bucket, copies, tmp_path, "m/2/model.onnx", "m")
    root = path.parent.parent
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert files == {p[2:]: c for p, c in MODEL.items() if p.startswith("m/") and "/1/" not in p}
    before = bucket.fetched
    store = copies.store_of(path) or copies._stores[0]
    again, same = copies.hold(
        store, store.local_path("m/2/model.onnx"), store.local_path("m"), threading.Event()
    )
    assert same == path and bucket.fetched == before
    copies.release(held)
    assert path.exists()
    copies.release(again)
    assert not path.exists() and list((store.folder / "copies").iterdir()) == []
    copies.close()
    assert list(tmp_path.iterdir()) == []


def test_what_changes_under_the_copy_is_no_copy(tmp_path: Path) -> None:
    bucket, copies = Bucket(MODEL), Copies()

    store = bucket.store(tmp_path)
    store.refresh()
    bucket.on_fetch = lambda: bucket.files.update({"m/2/sub/weights": b"newer"})
    with pytest.raises(LoadFailed, match="changed while"):
        copies.hold(store, store.local_path("m/2/model.onnx"), store.local_path("m"), threading.Event())
    assert list((store.folder / "copies").iterdir()) == []


def test_what_vanishes_under_the_copy_is_no_copy(tmp_path: Path) -> None:
    bucket, copies = Bucket(MODEL), Copies()
    store = bucket.store(tmp_path)
    store.refresh()
    del bucket.files["n/1/model.onnx"]
    with pytest.raises(LoadFailed, match=r"n/1/model\.onnx changed while"):
        copies.hold(store, store.local_path("n/1/model.onnx"), store.local_path("n"), threading.Event())


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    bucket, copies, stop = Bucket(MODEL), Copies(), threading.Event()
    store = bucket.store(tmp_path)
    store.refresh()
    bucket.on_fetch = stop.set
    with pytest.raises(LoadFailed, match="given up"):
        copies.hold(store, store.local_path("m/2/model.onnx"), store.local_path("m"), stop)
    assert list((store.folder / "copies").iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, copies = Bucket(MODEL), Copies()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    with pytest.raises(LoadFailed, match="TRITON_AWS_MOUNT_DIRECTORY"):
        hold(bucket, copies, tmp_path, "m/2/model.onnx", "m")


def test_large_copies_tell_how_far_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bucket = Bucket({"m/1/model.onnx": bytes(70 << 20)})
    hold(bucket, Copies(), tmp_path, "m/1/model.onnx", "m")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "copying s3://bucket/m/1/model.onnx: 10 % of 70 MiB"
    assert lines[-1] == "copied s3://bucket/m/1/model.onnx: 70 MiB"


def test_which_files_a_version_needs() -> None:
    def named(*paths: str) -> dict[str, Entry]:
        return {path: Entry(path, False) for path in paths}

    model = named("m/1/model.onnx", "m/1/x", "m/2/saved/model.pb", "m/config.pbtxt", "m/warmup/1")
    assert set(wanted(model, "m", "m/1/model.onnx")) == {*model} - {"m/2/saved/model.pb"}
    assert set(wanted(model, "m", "m/2/saved")) == {*model} - {"m/1/model.onnx", "m/1/x"}
    bare = named("a.onnx", "a.onnx.data", "ab.onnx", "a.bin", "7/x")
    assert set(wanted(bare, "a.onnx", "a.onnx")) == {"a.onnx", "a.onnx.data", "a.bin"}
    whole = named("saved_model.pb", "variables/x")
    assert wanted(whole, "", "") == whole
    assert set(wanted(named("1/x", "2/x", "config.pbtxt"), "", "2/x")) == {"2/x", "config.pbtxt"}
