"""Python environments that models bring (``EXECUTION_ENV_PATH``, TR-A4).

An environment is a folder, or an archive that is unpacked once for all models that name it and removed with
the last of them. Its Python is checked before it is used.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

import salver
from salver.dialects.triton.config_view import parameters
from salver.kernel.engine.spawn import Interpreter
from salver.stores.unpack import unpack
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

PARAMETER: Final = "EXECUTION_ENV_PATH"
_MODEL_FOLDER: Final = "$$TRITON_MODEL_DIRECTORY"
_PREFIX: Final = "salver-env-"
_LEAST: Final = (3, 11)
_PROBE_S: Final = 120.0
#: Prints version and packages of a Python; runs on any Python 3.
_PROBE: Final = """
import json, sys
from importlib.util import find_spec
found = {"version": list(sys.version_info[:2]), "tag": sys.implementation.cache_tag, "has": []}
for name in ("numpy", "msgspec"):
    if find_spec(name) is not None:
        found["has"].append(name)
print(json.dumps(found))
"""

#: An archive, its modification time and its size.
_Key = tuple[Path, int, int]


class _Python(msgspec.Struct, frozen=True):
    """Version and packages of an environment's Python."""

    version: tuple[int, int]
    tag: str
    has: tuple[str, ...]


_read_python: Final = msgspec.json.Decoder(_Python).decode


class _Unpacked:
    """An unpacked archive with the number of its users."""

    def __init__(self, folder: Path, work: "asyncio.Task[None]") -> None:
        self.folder = folder
        self.work = work
        self.users = 0


class Environments:
    """Opens environments.

    Args:
        cache: Folder in which archives are unpacked.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._unpacked: dict[_Key, _Unpacked] = {}
        self._is_swept = False

    def __repr__(self) -> str:
        return f"<Environments, {len(self._unpacked)} unpacked>"

    async def open(self, manifest: Manifest) -> Interpreter | None:
        """Return the Python that a model names, to be released once; None if it names none.

        Raises:
            LoadFailed: It does not exist or does not fit; the error says what is needed.
        """
        text = parameters(manifest.foreign_config).get(PARAMETER, "")
        if not text:
            return None
        path, key = await asyncio.to_thread(_find, text, manifest)
        async with contextlib.AsyncExitStack() as undo:
            if key is not None:
                path = await self._unpack(key)
                undo.push_async_callback(self._leave, key)
            program, support = await asyncio.to_thread(_check, path, manifest.id.name)
            undo.callback(shutil.rmtree, support, ignore_errors=True)
            return Interpreter(str(program), _variables(path, support), undo.pop_all().aclose)
        raise AssertionError  # for type checkers: the stack suppresses no exception

    async def _unpack(self, key: _Key) -> Path:
        found = self._unpacked.get(key)
        if found is None:
            prefix = f"{_PREFIX}{os.getpid()}-"
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._cache))
            work = asyncio.create_task(asyncio.to_thread(self._fill, key[0], folder))
            found = self._unpacked[key] = _Unpacked(folder, work)
        found.users += 1
        try:
            await asyncio.shield(found.work)
        except BaseException:
            await self._leave(key)
            raise
        return found.folder

    def _fill(self, archive: Path, folder: Path) -> None:
        if not self._is_swept:
            self._is_swept = True
            _sweep(self._cache)
        unpack(archive, folder)

    async def _leave(self, key: _Key) -> None:
        unpacked = self._unpacked[key]
        unpacked.users -= 1
        if not unpacked.users:
            del self._unpacked[key]
            with contextlib.suppress(LoadFailed):
                await unpacked.work
            await asyncio.to_thread(shutil.rmtree, unpacked.folder, ignore_errors=True)


def _find(text: str, manifest: Manifest) -> tuple[Path, _Key | None]:
    """Return the folder or the archive that a model names; archives have a key."""
    path = Path(text.replace(_MODEL_FOLDER, str(_model_folder(manifest))))
    if "://" in text or not path.is_absolute() or not path.exists():
        raise LoadFailed(
            f"model '{manifest.id.name}': {PARAMETER} '{text}' is no file or folder of this machine",
            fix=f"Write an absolute path, or one that starts with {_MODEL_FOLDER}/.",
        )
    path = path.resolve()
    if path.is_dir():
        return path, None
    stat = path.stat()
    return path, (path, stat.st_mtime_ns, stat.st_size)


def _sweep(cache: Path) -> None:
    """Remove the folders of servers that were killed."""
    for folder in cache.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_ours = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and is_ours:
                shutil.rmtree(folder, ignore_errors=True)


def _model_folder(manifest: Manifest) -> Path:
    """Return the folder of the model, which holds its versions."""
    folder = manifest.path
    if not folder.is_dir():
        folder = folder.parent
    if folder.name == manifest.id.version:
        return folder.parent
    return folder


def _check(root: Path, model: str) -> tuple[Path, Path]:
    """Return the environment's Python, and a new folder with packages for its path. Raises LoadFailed."""
    python = root / "bin" / "python"
    if not python.exists():
        python = root / "bin" / "python3"
    if not os.access(python, os.X_OK):
        raise LoadFailed(
            f"model '{model}': {PARAMETER} has no bin/python",
            fix="Pack it with conda-pack or venv-pack.",
        )
    found = _probe(python, root, model)
    if found.version < _LEAST:
        raise LoadFailed(
            f"model '{model}': {PARAMETER} is Python {found.version[0]}.{found.version[1]}",
            fix=f"Make it of Python {_LEAST[0]}.{_LEAST[1]} or newer, with numpy and msgspec.",
        )
    links = {"salver": salver.__path__[0]}
    if "msgspec" not in found.has and found.tag == sys.implementation.cache_tag:
        links["msgspec"] = msgspec.__path__[0]  # compiled for the same Python
    if missing := [name for name in ("numpy", "msgspec") if name not in found.has and name not in links]:
        raise LoadFailed(
            f"model '{model}': {PARAMETER} lacks {' and '.join(missing)}",
            fix="Install that into the environment, and pack it again.",
        )
    support = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-path-"))
    for name, target in links.items():
        (support / name).symlink_to(target)
    return python, support


def _probe(python: Path, root: Path, model: str) -> _Python:
    try:
        run = subprocess.run(
            [python, "-c", _PROBE],
            env={**os.environ, **_variables(root, None)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
        if run.returncode:
            raise ValueError(
                run.stderr.decode(errors="replace").strip()[-500:] or f"it ends with {run.returncode}"
            )
        return _read_python(run.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"model '{model}': the Python of {PARAMETER} does not run: {error}") from error


def _variables(root: Path, support: Path | None) -> dict[str, str]:
    """Return the environment variables of its processes."""
    is_conda = (root / "conda-meta").is_dir()
    variables = {
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(support or ""),
        "PYTHONHOME": "",
        "PYTHONNOUSERSITE": "1",
        "CONDA_PREFIX" if is_conda else "VIRTUAL_ENV": str(root),
    }
    if is_conda:
        libraries = [str(root / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    return variables
