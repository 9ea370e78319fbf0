"""The benchmark of releases measures what it says: new units are new, and all of them lie in the ledger."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("frames", "models", "forms", "processes", "load", "host", "page", "split_steps", "split_overhead")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's modules, imported as the script imports them, made small, and forgotten afterwards."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    try:
        found = SimpleNamespace(**{name: __import__(name) for name in NAMES})
        monkeypatch.setattr(found.split_steps, "REQUESTS", 500)
        monkeypatch.setattr(found.split_steps, "USERS", 20)
        monkeypatch.setattr(found.split_steps, "tune_interpreter", lambda: None)
        yield found
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


@pytest.mark.parametrize(("every", "new"), [(0, 0), (5, 100), (1, 500)])
def test_so_many_units_come_for_the_first_time(bench: Any, every: int, new: int) -> None:
    names = bench.split_steps.namer(every)
    first, second = names(), names()
    assert len(first) == len(second) == 500
    assert len(set(second) - set(first)) in range(new, new + 21)
    assert sum(name.startswith(b"guest") for name in second) == new


@pytest.mark.parametrize("is_judged", [False, True])
def test_each_unit_behind_the_door_is_written_down_once(bench: Any, is_judged: bool) -> None:
    async def ask() -> Any:
        async with bench.split_steps.kept() as ledger:
            door = bench.split_steps.Door((bench.split_steps.quarter(is_judged),), ledger, is_judged)
            names = bench.split_steps.namer(5)
            for _ in range(3):
                assert await door.timed(names()) > 0
            return await ledger.met()

    units = asyncio.run(ask())
    assert len(units) == len(set(units.tolist())) == 3 * 100 + 20


def test_the_table_says_what_is_met_and_what_is_missed(bench: Any) -> None:
    steps = bench.split_steps.steps(rounds=1)
    assert list(steps) == ["known", "one in five new", "new"]
    told = {"known": {"split": 1.0, "judged": 2.0}, "new": {"split": 6.0, "judged": 7.0}}
    host = {"cpu": "c", "cores": 2, "kernel": "k", "python": "3", "revision": "r", "date": "d"}
    noise = {"exchange_us": [1, 1], "steal": 0.0, "load_average": 0.1, "complaints": []}
    cell = {"rate": 10.0, "cpu_us": 5.0, "ratio": 1.0}
    text = bench.split_overhead.text(
        {
            "host": host,
            "noise": noise,
            "published": {"1": 140.0, "16": 50.0, "64": 30.0},
            "steps": told,
            "summary": {"16 known": {"none": cell, "again": {**cell, "ratio": 0.97}}},
            "units": asyncio.run(bench.split_overhead.units(1000)),
        }
    )
    assert "| new | split and logged | 6.00 | 4.3%, 12.0%, 20.0% |" in text
    assert "| 16 | known | none | 10 | 5.0 | 1.000 |" in text
    assert "differ by up to 3.0%" in text
    assert "| 1,000 | " in text and "| 0.0000% |" in text
    assert text.count("| pass |") == 4 and text.count("| **missed** |") == 2
