"""Interpreters of environments: their check, and the variables of their processes.

A host process imports Salver's source, msgspec and numpy. Salver's source is lent by a folder of links on its
path; numpy must be in the environment; msgspec is lent or installed into that folder if it is missing.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

import salver
from salver.words.errors import LoadFailed

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


class Python(msgspec.Struct, frozen=True):
    """Version and packages of an environment's Python."""

    version: tuple[int, int]
    tag: str
    has: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the version as text."""
        return ".".join(map(str, self.version))

    def links(self) -> dict[str, str]:
        """Return what is lent to it: folders of packages by name."""
        found = {"salver": salver.__path__[0]}
        if "msgspec" not in self.has and self.tag == sys.implementation.cache_tag:
            found["msgspec"] = msgspec.__path__[0]  # compiled for the same Python
        return found


_read: Final = msgspec.json.Decoder(Python).decode


def probe(python: Path, root: Path) -> Python:
    """Return what a host process needs to know of an environment's Python. Blocking.

    Raises:
        LoadFailed: it does not run, is too old, or has no numpy.
    """
    try:
        run = subprocess.run(
            [python, "-c", _PROBE],
            env={**os.environ, **variables(root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
        if run.returncode:
            raise ValueError(
                run.stderr.decode(errors="replace").strip()[-500:] or f"it ends with {run.returncode}"
            )
        found = _read(run.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"the Python of the environment {root} does not run: {error}") from error
    if found.version < _LEAST:
        raise LoadFailed(
            f"the environment {root} has Python {found.text}",
            fix=f"Make it of Python {_LEAST[0]}.{_LEAST[1]} or newer, with numpy.",
        )
    if "numpy" not in found.has:
        raise LoadFailed(f"the environment {root} lacks numpy", fix="Add numpy to its packages.")
    return found


def variables(root: Path, support: Path | None = None) -> dict[str, str]:
    """Return the environment variables of its processes.

    Args:
        support: Folder of the packages that are lent to it.
    """
    is_conda = (root / "conda-meta").is_dir()
    found = {
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(support or ""),
        "PYTHONHOME": "",
        "PYTHONNOUSERSITE": "1",
        "CONDA_PREFIX" if is_conda else "VIRTUAL_ENV": str(root),
    }
    if is_conda:
        libraries = [str(root / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        found["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    return found
