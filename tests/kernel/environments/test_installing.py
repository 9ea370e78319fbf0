"""Environments made with pip and with uv, of packages of this machine."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from salver.kernel.environments import installing
from salver.kernel.environments.installing import make, python_of
from salver.kernel.environments.recipe import OWN_PYTHON, Recipe
from salver.words.errors import LoadFailed

NAME = "tiny_salver_need"
GO = threading.Event()
LOCK = 0  # standard input
PROJECT = f"""[project]
name = "model"
version = "1"
requires-python = ">=3.11"
dependencies = ["{NAME}"]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of one module, made by hand."""
    path = tmp_path_factory.mktemp("wheels") / f"{NAME}-1.0-py3-none-any.whl"
    info = f"{NAME}-1.0.dist-info"
    said = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    names = (f"{NAME}.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(names[0], "ANSWER = 42\n")
        opened.writestr(names[1], f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
        opened.writestr(names[2], said)
        opened.writestr(names[3], "".join(f"{name},,\n" for name in names))
    return path


@pytest.fixture(autouse=True)
def _offline(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for installer in ("PIP", "UV"):
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(wheel.parent))


@pytest.fixture
def uv() -> str:
    found = installing._uv()
    if not found:
        pytest.skip("uv is not installed: pip install -r requirements/test.txt")
    return found


def recipe(folder: Path, text: str) -> Recipe:
    return Recipe("requirements", folder / "r.txt", OWN_PYTHON, {"requirements.txt": text.encode()})


def answer(folder: Path) -> str:
    program = f"import {NAME}; print({NAME}.ANSWER)"
    return subprocess.run(
        [python_of(folder), "-c", program], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("has_uv", [False, True])
def test_requirements_are_installed_if_their_digests_agree(
    has_uv: bool, wheel: Path, uv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_uv:
        monkeypatch.setattr(installing, "_uv", lambda: "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    locked = f"{NAME}==1.0 --hash=sha256:"
    (tmp_path / "env").mkdir()
    make(recipe(tmp_path, locked + digest), tmp_path / "env", GO, LOCK)
    assert answer(tmp_path / "env") == "42\n"
    (tmp_path / "other").mkdir()
    with pytest.raises(LoadFailed, match=r"'r.txt' cannot be installed: [^'](.|\n)*(?i:hash)"):
        make(recipe(tmp_path, locked + "0" * 64), tmp_path / "other", GO, LOCK)


def test_a_lock_of_uv_is_installed(uv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    subprocess.run([uv, "lock", "--quiet", "--python", sys.executable], cwd=project, check=True)
    files = {name: (project / name).read_bytes() for name in ("uv.lock", "pyproject.toml")}
    (tmp_path / "env").mkdir()
    found = Recipe("requirements", project / "uv.lock", OWN_PYTHON, files)
    make(found, tmp_path / "env", GO, LOCK)
    assert answer(tmp_path / "env") == "42\n"
    monkeypatch.setattr(installing, "_uv", lambda: "")
    with pytest.raises(LoadFailed, match="needs uv") as failure:
        make(found, tmp_path / "env", GO, LOCK)
    assert failure.value.fix == "Install it: pip install uv"


def test_without_uv_a_python_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "_uv", lambda: "")
    with pytest.raises(LoadFailed, match=r"there is no Python 3\.99 on this machine"):
        make(Recipe("requirements", tmp_path / "r.txt", "3.99"), tmp_path, GO, LOCK)


def test_a_packed_environment_is_unpacked_and_told_where_it_is(tmp_path: Path) -> None:
    packed = tmp_path / "packed" / "bin"
    packed.mkdir(parents=True)
    (packed / "python").symlink_to(shutil.which("python3") or sys.executable)
    (packed / "conda-unpack").write_text("open('prefix', 'w').write(__file__)")
    with tarfile.open(tmp_path / "environment.tar.gz", "w:gz") as tar:
        tar.add(packed.parent, ".")
    (tmp_path / "env").mkdir()
    make(Recipe("archive", tmp_path / "environment.tar.gz"), tmp_path / "env", GO, LOCK)
    assert (tmp_path / "env" / "prefix").read_text() == str(tmp_path / "env" / "bin" / "conda-unpack")
