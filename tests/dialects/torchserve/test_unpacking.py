"""An archive is unpacked while it is loaded, and not longer (TS-A1)."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.loading import Unpacking
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.handlers import FORMAT
from salver.words.messages import ModelId


class Loaded:
    def __init__(self) -> None:
        self.ends: list[Any] = []

    def at_end(self, end: Any) -> None:
        self.ends.append(end)


class Loader:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.seen: list[Path] = []
        self.content = ""

    async def load(self, manifest: Manifest) -> Any:
        self.seen.append(manifest.path)
        if manifest.path.is_dir():
            self.content = (manifest.path / "noop.py").read_text()
        if isinstance(self.error, LoadFailed):
            raise LoadFailed(f"{manifest.path}/noop.py is wrong", fix=f"See {manifest.path}")
        if self.error:
            raise self.error
        return Loaded()


def manifest(path: Path, kind: str = FORMAT) -> Manifest:
    return Manifest(ModelId("m", "1.0"), path, kind, kind)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(MANIFEST, json.dumps({"model": {"modelName": "m"}}))
        opened.writestr("noop.py", "x = 1")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.clause("TS-A1")
async def test_the_loader_has_a_folder_until_the_end(archive: Path, cache: Path) -> None:
    loader = Loader()
    servable: Any = await Unpacking(loader, UnpackedArchives(cache)).load(manifest(archive))
    assert loader.content == "x = 1"
    assert loader.seen[0].is_relative_to(cache)
    for end in servable.ends:
        await end()
    assert not files(cache)


@pytest.mark.clause("TS-A1")
async def test_folders_and_other_models_are_loaded_as_they_lie(archive: Path, cache: Path) -> None:
    loader = Loader()
    folder = archive.parent / "folder"
    folder.mkdir()
    (folder / "noop.py").write_text("")
    await Unpacking(loader, UnpackedArchives(cache)).load(manifest(folder))
    await Unpacking(loader, UnpackedArchives(cache)).load(manifest(archive, "onnx"))
    assert loader.seen == [folder, archive]
    assert not files(cache)


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize("error", [LoadFailed("x"), RuntimeError("y")])
async def test_what_does_not_load_is_let_go_and_told_by_its_archive(
    error: Exception, archive: Path, cache: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        await Unpacking(Loader(error), UnpackedArchives(cache)).load(manifest(archive))
    assert not files(cache)
    if isinstance(error, LoadFailed):
        assert str(raised.value) == f"{archive}/noop.py is wrong. See {archive}"


@pytest.mark.clause("TS-A1")
async def test_a_bad_archive_is_a_failed_load(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "text.mar").write_text("not a model")
    with pytest.raises(LoadFailed, match=r"text\.mar"):
        await Unpacking(Loader(), UnpackedArchives(cache)).load(manifest(tmp_path / "text.mar"))
