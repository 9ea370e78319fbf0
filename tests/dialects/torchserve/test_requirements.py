"""Installation of an archive's requirements (TS-A8, TS-C2, TS-Y1)."""

import asyncio
import json
import logging
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S

from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.loading import Unpacking
from salver.dialects.torchserve.requirements import install
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.handlers import FORMAT
from salver.words.messages import ModelId

NAME = "tiny_salver_need"


def wheel(folder: Path, version: str = "1.0") -> Path:
    """Make a package of one module by hand."""
    folder.mkdir(exist_ok=True)
    info = f"{NAME}-{version}.dist-info"
    path = folder / f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(f"{NAME}.py", f"ANSWER = {version!r}\n")
        opened.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n")
        opened.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        opened.writestr(
            f"{info}/RECORD", f"{NAME}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return path


def archive(folder: Path, text: str, file: str = "requirements.txt") -> Path:
    path = folder / "m.mar"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(MANIFEST, json.dumps({"model": {"modelName": "m", "requirementsFile": file}}))
        opened.writestr("requirements.txt", text)
        opened.writestr("noop.py", "")
    return path


class Loader:
    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.path = Path()
        self.ends: list[Any] = []

    async def load(self, manifest: Manifest) -> Any:
        self.path = manifest.path
        self.seen.append(sorted(path.name for path in manifest.path.iterdir() if path.suffix == ".py"))
        return self

    def at_end(self, end: Any) -> None:
        self.ends.append(end)


def manifest(path: Path) -> Manifest:
    return Manifest(ModelId("m", "1.0"), path, FORMAT, FORMAT)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.clause("TS-C2", "TS-A8")
async def test_what_is_required_is_installed_into_the_models_own_folder(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loader = Loader()
    path = archive(tmp_path, f"{NAME}==1.0\n")
    await asyncio.gather(
        *(
            Unpacking(loader, archives, installs=True).load(manifest(path))
            for archives in [UnpackedArchives(cache)] * 2
        )
    )
    assert loader.seen == [["noop.py", f"{NAME}.py"]] * 2
    assert caplog.text.count("Successfully installed") == 1  # once for both
    assert NAME not in sys.modules
    for end in loader.ends:
        await end()
    assert files(cache) == []


@pytest.mark.clause("TS-C2")
async def test_without_leave_nothing_is_installed_and_the_key_is_named(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader()
    await Unpacking(loader, UnpackedArchives(cache)).load(manifest(archive(tmp_path, f"{NAME}==1.0\n")))
    assert loader.seen == [["noop.py"]]
    assert caplog.text.count("install_py_dep_per_model=true") == 1


@pytest.mark.clause("TS-C2", "TS-A1")
async def test_of_a_folder_a_copy_takes_the_packages(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "open"
    with zipfile.ZipFile(archive(tmp_path, f"{NAME}\n")) as opened:
        opened.extractall(folder)
    loader = Loader()
    await Unpacking(loader, UnpackedArchives(cache), installs=True).load(manifest(folder))
    assert loader.seen == [["noop.py", f"{NAME}.py"]]
    assert loader.path.is_relative_to(cache)
    assert not (folder / f"{NAME}.py").exists()


@pytest.mark.clause("TS-C2")
@pytest.mark.parametrize(
    ("text", "file", "words"),
    [
        (f"{NAME}==9.9\n", "requirements.txt", "No matching distribution"),
        ("???\n", "requirements.txt", "Invalid requirement"),
        ("", "none.txt", "there is no 'none.txt'"),
    ],
)
async def test_what_cannot_be_installed_is_a_failed_load(
    text: str, file: str, words: str, tmp_path: Path, cache: Path
) -> None:
    archives = UnpackedArchives(cache)
    with pytest.raises(LoadFailed, match=words):
        await Unpacking(Loader(), archives, installs=True).load(manifest(archive(tmp_path, text, file)))
    assert repr(archives) == "<UnpackedArchives, 0 unpacked>"
    assert files(cache) == []


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an interpreter that never ends."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "requirements.txt").write_text("")
    return tmp_path


@pytest.mark.clause("TS-C2")
def test_an_installation_that_takes_too_long_is_ended(slow: Path) -> None:
    with pytest.raises(LoadFailed, match=r"it takes longer than 0\.2 s"):
        install(slow, "requirements.txt", threading.Event(), 0.2)


@pytest.mark.clause("TS-C2")
async def test_an_installation_that_nobody_waits_for_any_more_is_ended(
    tmp_path: Path, cache: Path, slow: Path
) -> None:
    archives = UnpackedArchives(cache)
    loading = asyncio.create_task(
        Unpacking(Loader(), archives, installs=True).load(manifest(archive(tmp_path, "")))
    )
    await asyncio.sleep(0.2)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(loading, PATIENCE_S)
    assert repr(archives) == "<UnpackedArchives, 0 unpacked>"


@pytest.mark.clause("TS-C2")
def test_without_pip_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text("")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(LoadFailed, match="No such file"):
        install(tmp_path, "requirements.txt", threading.Event())
