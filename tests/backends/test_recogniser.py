"""Which backend has a path, looked at again and again."""

import os
from pathlib import Path

from salver.backends.discovery import recogniser
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import ArtifactKind


class Counting(OnnxBackend):
    """Recognises what begins with ``yes``, and counts how often it looked."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def recognise(self, path: Path) -> str | None:
        self.looks += 1
        return "told" if path.read_bytes().startswith(b"yes") else None


def test_a_file_that_has_not_changed_is_read_once(tmp_path: Path) -> None:
    backend, file = Counting(), tmp_path / "a"
    recognise = recogniser({"counting": backend})
    file.write_bytes(b"yes")
    assert [recognise(file), recognise(file)] == [ArtifactKind("counting", "told")] * 2
    assert backend.looks == 1


def test_a_file_with_another_content_is_read_again(tmp_path: Path) -> None:
    backend, file = Counting(), tmp_path / "a"
    recognise = recogniser({"counting": backend})
    file.write_bytes(b"yes")
    before = file.stat()
    assert recognise(file) is not None
    (tmp_path / "b").write_bytes(b"no!")
    os.utime(tmp_path / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "b").replace(file)  # as long and as old
    assert recognise(file) is None


def test_a_path_that_is_missing_is_asked_about_each_time(tmp_path: Path) -> None:
    backend = Counting()
    recognise = recogniser({"counting": backend})
    (tmp_path / "a").write_bytes(b"yes")
    recognise(tmp_path / "a")
    (tmp_path / "a").unlink()
    (tmp_path / "a").write_bytes(b"no")
    assert recognise(tmp_path / "a") is None
