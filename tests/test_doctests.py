"""Do the examples in docstrings hold?"""

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
SHIM = SOURCE / "salver" / "dialects" / "torchserve" / "shim"  # whose modules call one another ``ts``
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in (SOURCE / "salver").rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".shim." in name:
        monkeypatch.syspath_prepend(SHIM)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0


def test_there_are_examples() -> None:
    assert "salver.words.tensor" in MODULES
