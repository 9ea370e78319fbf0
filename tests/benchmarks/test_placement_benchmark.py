"""Simulated day of the placement benchmark in small: a lost region is repaired, little else moves."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def placement(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    yield __import__("placement")
    for name in ("placement", "page", "host", "models"):
        sys.modules.pop(name, None)
        if name in before:
            sys.modules[name] = before[name]


def test_a_day_with_the_loss_of_a_region(placement: Any) -> None:
    hours = list(placement.day(20))
    assert not any(hour["unplaced"] for hour in hours)
    assert all(hour["most_full"] <= 1 + 1e-9 for hour in hours)
    lost, back = hours[placement.LOST], hours[placement.BACK]
    assert lost["bytes"] <= 1.2 * lost["least"]
    assert lost["steps"] > 100
    assert 0 < back["moves"] < 0.2 * back["replicas"]
    quiet = [hour for hour in hours[1:] if hour not in (lost, back)]
    assert sum(hour["moves"] for hour in quiet) <= 0.01 * sum(hour["replicas"] for hour in quiet)
    overfull = list(placement.day(10, fill=placement.OVERFULL, last=placement.LOST + 1))
    assert 0 < overfull[-1]["unplaced"] < 0.5 * overfull[-2]["replicas"] and overfull[-1]["most_full"] <= 1
    row = placement.summary(20, hours, overfull)
    assert [holds for *_, holds in placement.verdicts([row])][1:] == [True, True]
    assert "| 20 | 200 |" in placement.text(
        {
            "host": placement.page.host.facts(),
            "noise": {"exchange_us": (1, 1), "steal": 0, "load_average": 0, "complaints": []},
            "rows": [row],
        }
    )
