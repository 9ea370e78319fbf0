"""Recipe of an environment: the files that decide what is installed, with a Python.

The files are read once, and those very bytes are both digested and installed.
"""

import hashlib
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from salver.backends.loading import read_bounded
from salver.encoding.lenient import mapping
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed

with lazy_imports():
    from salver.encoding.plain_yaml import read_yaml


REQUIREMENTS: Final = "requirements.txt"
UV_LOCK: Final = "uv.lock"
_PROJECT: Final = "pyproject.toml"
_PYTHON_ENV: Final = "python_env.yaml"
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST: Final = 16 << 20
#: Lines that name files of this machine, whose content the digest would not cover.
_LOCAL: Final = re.compile(
    r"\s*(?:-r|-c|-e|--requirement|--constraint|--editable|\.{0,2}/|[\w.\[\], -]+@\s*file:|file:)"
)
_VERSION: Final = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
OWN_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class Recipe(msgspec.Struct, frozen=True):
    """Source of an environment: kind, files and Python.

    Attributes:
        kind: ``folder`` exists already; ``archive`` is unpacked; ``requirements`` are installed.
        path: File or folder that the model names.
        python: Version, or path of an interpreter, for requirements.
        files: Content of the files for the installer, by name.
    """

    kind: Literal["folder", "archive", "requirements"]
    path: Path
    python: str = ""
    files: dict[str, bytes] = {}

    def digest(self) -> str:
        """Return what identifies the environment on all machines of this kind. Blocking: reads archives."""
        digest = hashlib.sha256(repr((self.kind, self.python, sysconfig.get_platform())).encode())
        for name, content in sorted(self.files.items()):
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
        if self.kind == "archive":
            try:
                with self.path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise LoadFailed(f"{self.path} cannot be read: {error.strerror}") from error
        return digest.hexdigest()[:32]


def recipe_of(manifest: Manifest) -> Recipe:
    """Return the recipe of a model's environment. Blocking.

    Raises:
        LoadFailed: its file is missing, of no known kind, or reads files of this machine.
    """
    wish, home = manifest.config.environment, manifest.home
    path = ((home if home.is_dir() else home.parent) / wish.path).resolve()
    if path.is_dir():
        return Recipe("folder", path)
    if not path.is_file():
        raise LoadFailed(
            f"there is no '{path}' to make its environment of",
            field="environment.path",
            fix="Write an absolute path, or one in the model's folder.",
        )
    if path.name.endswith(_ARCHIVES):
        return Recipe("archive", path)
    python, files = wish.python, {}
    if path.name == UV_LOCK:
        files = {each: read_bounded(path.with_name(each), _MOST) for each in (UV_LOCK, _PROJECT)}
    elif path.name == _PYTHON_ENV:
        found, files[REQUIREMENTS] = _of_mlflow(path)
        python = python or found
    elif path.suffix == ".txt":
        files[REQUIREMENTS] = read_bounded(path, _MOST)
        _refuse_local(files[REQUIREMENTS], path)
    else:
        raise LoadFailed(
            f"no environment can be made of '{path.name}'",
            field="environment.path",
            fix=f"Name a requirements file (*.txt), {UV_LOCK}, {_PYTHON_ENV}, an archive "
            f"({', '.join(_ARCHIVES)}) or a folder.",
        )
    return Recipe("requirements", path, python or OWN_PYTHON, files)


def _refuse_local(content: bytes, path: Path) -> None:
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if _LOCAL.match(line):
            raise LoadFailed(
                f"{path}, line {number}: '{line.strip()[:100]}' names a file of this machine",
                field="environment.path",
                fix="Write all packages into one file, such as uv pip compile --generate-hashes writes it.",
            )


def _of_mlflow(path: Path) -> tuple[str, bytes]:
    """Return Python and requirements of MLflow's ``python_env.yaml``."""
    try:
        said: Any = mapping(read_yaml(read_bounded(path, _MOST), str(path), "mlflow"))
    except InvalidInput as error:
        raise LoadFailed(error.message, fix=error.fix) from error
    dependencies = said.get("dependencies")
    if not isinstance(dependencies, list):
        raise LoadFailed(f"{path} has no list of dependencies")
    lines = []
    for line in map(str, dependencies):
        if line.split() == ["-r", REQUIREMENTS]:
            line = read_bounded(path.with_name(REQUIREMENTS), _MOST).decode(errors="replace")
        lines.append(line)
    content = "\n".join(lines).encode()
    _refuse_local(content, path)
    version = _VERSION.fullmatch(str(said.get("python", "")))
    return (version[1] if version else ""), content
