"""Misses of the budget's own policy on a trace, beside LRU and Belady (``benchmarks/model_swaps.py``)."""

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from salver.features.memory.estimates import Need
from salver.features.memory.states import Resident
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import ModelId


@pytest.fixture
def swaps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import model_swaps

    return sys.modules[model_swaps.__name__]


def sessions(seed: int, count: int) -> list[tuple[float, str]]:
    """Return requests of people who stay with a model for a while, and of programs that ask now and then."""
    draw = random.Random(seed)
    names = [f"m{number}" for number in range(60)]
    weights = [1 / (1 + number) ** 1.1 for number in range(60)]
    found, begin = [], 0.0
    while len(found) < count:
        begin += draw.expovariate(1 / 300)
        at, mine = begin, draw.choices(names, weights)[0]
        for _ in range(1 + int(draw.expovariate(1 / 8))):
            at += draw.expovariate(1 / 60)
            found.append((at, mine))
        found += [(begin + 300 * draw.random(), draw.choices(names, weights)[0]) for _ in range(4)]
    return sorted(found)


def test_small_cases_by_hand(swaps: ModuleType) -> None:
    trace = [(float(at), name) for at, name in enumerate("abcabc")]
    assert [each(trace, 2).hits for each in (swaps.lru, swaps.lfu, swaps.belady)] == [0, 0, 2]
    assert swaps.served([(float(at), name) for at, name in enumerate("aabaac")], 2).hits == 3


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_much_of_the_gap_between_lru_and_belady_is_closed(swaps: ModuleType, slots: int) -> None:
    trace = sessions(3, 4000)
    floor, best = swaps.lru(trace, slots), swaps.belady(trace, slots)
    assert swaps.closed(swaps.served(trace, slots), floor, best) > 0.3


def test_who_is_asked_steadily_is_expected_at_that_rate() -> None:
    manifest = Manifest(ModelId("a", "1"), Path("a"), "onnx", "onnx", ModelConfig())
    resident = Resident(manifest, Need(1, 1), 0.0)
    for number in range(10_000):  # ten weeks: the longest half-life is one
        resident.asked(1, number * 600.0)
    mean = sum(resident.expected(9_999 * 600.0 + late + 0.5) for late in range(600)) / 600
    assert mean == pytest.approx(1 / 600, rel=0.02)
