"""Programs that tests call, found on the PATH; a test whose program is missing is skipped with the reason."""

import shutil
from pathlib import Path

import pytest

_LIST = Path(__file__).parent.parent / "scripts" / "debian.txt"


def program(name: str) -> str:
    """Return the path of a program of ``scripts/debian.txt``; skip the test if it is not installed."""
    lines = (line.split() for line in _LIST.read_text().splitlines() if line and not line.startswith("#"))
    package = dict(lines)[name]
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path
