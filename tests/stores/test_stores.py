"""Both built-in stores keep the promises, and the filesystem's own troubles become clear errors."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.stores import FileStore, MemoryStore, Store, StoreFailed
from salver.testing.stores import StoreConformance


class TestMemoryStore(StoreConformance):
    def make_store(self, files: Mapping[str, bytes], folder: Path) -> Store:
        return MemoryStore(files)


class TestFileStore(StoreConformance):
    def make_store(self, files: Mapping[str, bytes], folder: Path) -> Store:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return FileStore(folder)

    def test_local_path_is_where_the_file_lies(self, store: Store) -> None:
        assert store.local_path("b/1/model.onnx").read_bytes() == b"weights"

    def test_the_root_may_be_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"abc")
        entry = FileStore(tmp_path / "m.onnx").stat("")
        assert entry is not None
        assert (entry.name, entry.is_folder, entry.size) == ("m.onnx", False, 3)

    def test_links_are_followed_and_marked(self, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere"
        target.mkdir()
        root = tmp_path / "root"
        root.mkdir()
        (root / "1").symlink_to(target)
        entry = FileStore(root).stat("1")
        assert entry is not None
        assert entry.is_folder and entry.is_link

    def test_links_to_nowhere_and_in_circles_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "gone").symlink_to(tmp_path / "nothing")
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        (tmp_path / "ok").write_text("")
        store = FileStore(tmp_path)
        assert [e.name for e in store.entries("")] == ["ok"]
        assert store.stat("gone") is None
        with pytest.raises(StoreFailed, match="a cannot be read"):
            store.stat("a")

    def test_a_pipe_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(StoreFailed, match="is not a file"):
            FileStore(tmp_path).read("pipe", 10)

    def test_rewriting_within_the_same_size_changes_the_stamp(self, tmp_path: Path) -> None:
        file = tmp_path / "m"
        file.write_bytes(b"aa")
        os.utime(file, ns=(1, 1))
        before = FileStore(tmp_path).stat("m")
        os.utime(file, ns=(1, 2))
        assert FileStore(tmp_path).stat("m") != before
