"""Measurement of a machine's peak arithmetic rate and memory bandwidth.

Arithmetic: the best of many matrix products with the framework's own kernels. Memory: the best of many reads
of as many bytes as a model's weights, because the cache that holds them matters. A tenth of a second each.
"""

import threading
import time
from collections.abc import Callable

import numpy as np

from salver.backends.protocol import Cost, CountingBackend
from salver.features.tuning.roofline import Ceilings

_LEAST, _MOST = 512 << 10, 64 << 20  # bytes read per thread: few calls, limited memory
_SECONDS = 0.1


def ceilings(backend: CountingBackend, cost: Cost, instances: int, threads: int) -> Ceilings:
    """Measure the ceilings for a model of this cost. Blocking, with all cores of the placement busy.

    Args:
        instances: Concurrent runs that read the same weights, each on ``threads`` cores that share them.
    """
    cores = instances * threads

    def peak(int8: bool) -> float:
        multiply, operations = backend.product(int8)
        return operations * _together(cores, lambda core: multiply())

    flops = peak(False)
    int8_ops = 0.0
    if cost.int8_ops_a_row:
        int8_ops = peak(True)
    size = int(min(max(cost.weight_bytes / threads, _LEAST), _MOST))
    weights = np.ones((threads, size // 4), np.float32)
    readings = _together(cores, lambda core: np.maximum.reduce(weights[core % threads]))
    return Ceilings(flops, readings * 4.0 * weights.shape[1], int8_ops)


def _together(cores: int, work: Callable[[int], object]) -> float:
    """Return the best rate per second of the work on as many threads as there are cores."""
    rates: list[float] = []

    def repeat(core: int) -> None:
        work(core)
        best, until = 0.0, time.perf_counter() + _SECONDS
        while (began := time.perf_counter()) < until or not best:
            work(core)
            best = max(best, 1.0 / max(time.perf_counter() - began, 1e-9))
        rates.append(best)

    workers = [threading.Thread(target=repeat, args=(core,)) for core in range(cores)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)
