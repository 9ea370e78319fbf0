"""The fuzz targets run, and notice a defect."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from salver.testing.codecs import mutations

_FUZZ: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "fuzz" / "fuzz_codecs.py"))
_Target = tuple[Callable[[bytes], None], tuple[bytes, ...]]


@pytest.mark.parametrize("target", _FUZZ["TARGETS"].values(), ids=_FUZZ["TARGETS"])
def test_target(target: _Target) -> None:
    check, seeds = target
    for seed in seeds:
        check(seed)
        for data in mutations(seed, seed=7, count=150):
            check(data)


def test_a_defect_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise IndexError(data)

    monkeypatch.setitem(_FUZZ["TARGETS"], "broken", (broken, (b"seed",)))
    with pytest.raises(IndexError):
        _FUZZ["run_seconds"]("broken", 1.0)
