"""Conformance suite of :class:`salver.stores.Store`.

Subclass :class:`StoreConformance`, define how to make a store with given files, and let pytest collect it.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.stores import Store, StoreFailed

_FILES: Mapping[str, bytes] = {
    "b/1/model.onnx": b"weights",
    "b/config.toml": b"x = 1\n",
    "a.bin": b"",
}


class StoreConformance:
    """Suite with ``make_store`` to define."""

    def make_store(self, files: Mapping[str, bytes], folder: Path) -> Store:
        """Return a store with these files; ``folder`` is empty and may be used."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Return a store with three files."""
        return self.make_store(_FILES, tmp_path)

    def test_root_is_a_folder_and_lists_by_name(self, store: Store) -> None:
        """Folders exist if paths pass through them."""
        root = store.stat("")
        assert root is not None and root.is_folder
        assert [(e.name, e.is_folder) for e in store.entries("")] == [("a.bin", False), ("b", True)]
        assert [e.name for e in store.entries("b")] == ["1", "config.toml"]

    def test_stat_tells_what_a_listing_tells(self, store: Store) -> None:
        """Listing and ``stat`` agree on an entry."""
        for folder in ("", "b", "b/1"):
            for entry in store.entries(folder):
                assert store.stat(f"{folder}/{entry.name}" if folder else entry.name) == entry

    def test_a_file_has_a_size_and_a_stamp(self, store: Store) -> None:
        """A folder has neither size nor stamp."""
        file, folder = store.stat("b/1/model.onnx"), store.stat("b/1")
        assert file is not None and folder is not None
        assert (file.name, file.is_folder, file.size, file.stamp != "") == ("model.onnx", False, 7, True)
        assert (folder.name, folder.is_folder, folder.size, folder.stamp) == ("1", True, 0, "")

    @pytest.mark.parametrize("path", ["nothing", "b/2", "b/1/model.onnx/deeper", "a"])
    def test_what_is_not_there(self, store: Store, path: str) -> None:
        """``stat`` returns None, the others raise."""
        assert store.stat(path) is None
        with pytest.raises(StoreFailed):
            store.entries(path)
        with pytest.raises(StoreFailed):
            store.read(path, 10)

    def test_reads_whole_files_up_to_the_limit(self, store: Store) -> None:
        """Files are read completely or not at all."""
        assert store.read("b/1/model.onnx", 7) == b"weights"
        assert store.read("a.bin", 0) == b""
        with pytest.raises(StoreFailed, match="6 bytes"):
            store.read("b/1/model.onnx", 6)

    def test_a_file_is_no_folder_and_a_folder_no_file(self, store: Store) -> None:
        """Each is rejected as the other."""
        with pytest.raises(StoreFailed):
            store.entries("a.bin")
        with pytest.raises(StoreFailed):
            store.read("b", 10)

    @pytest.mark.parametrize("path", ["../x", "b/../../x", "/etc/passwd", "b\\..\\x", "b\0"])
    def test_no_path_leads_out(self, store: Store, path: str) -> None:
        """No path leaves the store, in any of the four methods."""
        for call in (store.stat, store.entries, lambda p: store.read(p, 10), store.local_path):
            with pytest.raises(StoreFailed, match="leads out of the store"):
                call(path)

    def test_a_changed_file_has_another_stamp(self, tmp_path: Path) -> None:
        """The stamp changes even if the size does not."""
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        before = self.make_store({"m": b"aaaa"}, tmp_path / "one").stat("m")
        after = self.make_store({"m": b"bbbb"}, tmp_path / "two").stat("m")
        assert before is not None and after is not None
        assert before.stamp != after.stamp

    def test_a_folder_of_too_many_is_refused(self, tmp_path: Path) -> None:
        """A folder with too many entries is rejected rather than read in part."""
        store = self.make_store({f"many/{n:05}": b"" for n in range(10_001)}, tmp_path)
        with pytest.raises(StoreFailed, match="more than 10000 entries"):
            store.entries("many")
