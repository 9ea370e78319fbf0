"""Programs that tests call, found on the PATH; a test whose program is missing is skipped with the reason."""

import re
import shutil
from pathlib import Path

import pytest

_LIST = Path(__file__).parents[2] / "scripts" / "debian.txt"


_PACKAGES = dict(line.split() for line in _LIST.read_text().splitlines() if line and not line.startswith("#"))


def program(name: str) -> str:
    """Return the path of a program of ``scripts/debian.txt``; skip the test if it is not installed."""
    package = _PACKAGES[name]
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def shell(text: str) -> str:
    """Return a shell's command line; skip the test if it uses what is not installed."""
    for name in _PACKAGES:
        if name.startswith("/") and name in text and not Path(name).exists():
            pytest.skip(f"{name} is not there: apt-get install {_PACKAGES[name]}")
        if re.search(rf"^\s*{re.escape(name)}\s|[|;&(]\s*{re.escape(name)}\s", text, re.M):
            program(name)
    return text
