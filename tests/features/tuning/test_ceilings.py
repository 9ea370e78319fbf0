"""The machine's ceilings are measured with the backend's own products and a reading of the weights."""

import math
import threading
from collections.abc import Callable, Mapping

import pytest

from salver.backends.protocol import Cost
from salver.features.tuning.ceilings import ceilings
from salver.words.artifacts import Manifest


class Counting:
    """A framework whose product is nothing at all; it notes who asked for it."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.threads: set[int] = set()

    def cost(self, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
        return Cost()

    def product(self, int8: bool) -> tuple[Callable[[], object], float]:
        self.asked.append(int8)
        return lambda: self.threads.add(threading.get_ident()), 1e6


@pytest.mark.parametrize(("int8_ops", "asked"), [(0.0, [False]), (1e6, [False, True])])
def test_8_bit_products_are_measured_only_for_models_that_have_them(
    int8_ops: float, asked: list[bool]
) -> None:
    backend = Counting()
    found = ceilings(backend, Cost(1e6, 1e6, int8_ops_a_row=int8_ops), 1, 1)
    assert backend.asked == asked
    assert (found.int8_ops_per_s > 0) == bool(int8_ops)


@pytest.mark.parametrize(("instances", "threads"), [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("weight_bytes", [0.0, 3e6])
def test_every_core_of_the_placement_takes_part(instances: int, threads: int, weight_bytes: float) -> None:
    backend = Counting()
    found = ceilings(backend, Cost(1e6, weight_bytes), instances, threads)
    assert len(backend.threads) <= instances * threads  # an identity may be used again
    assert threading.get_ident() not in backend.threads
    assert 0 < found.flops_per_s < math.inf
    assert 0 < found.bytes_per_s < math.inf
