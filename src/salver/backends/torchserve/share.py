"""How much of the machine does one worker of a handler take: cores, and memory between its runs?

Settled once, before the handler's libraries are imported; what the operator has set in the environment stays.
"""

import contextlib
import ctypes
import os
from collections.abc import Mapping, MutableMapping
from typing import Final

from salver.handlers import Workers

#: Read by the pools of threads of PyTorch and its like, when they are imported.
_THREADS: Final = "OMP_NUM_THREADS"
#: A run's tensors are freed at its end and wanted again by the next one. glibc gives such memory back to the
#: kernel by itself, and every page of it is a fault of the next run: a third of the time of a small network.
_KEPT_BYTES: Final = 256 << 20
_HEAP_BYTES: Final = 64 << 20  # larger pieces are mapped each for itself, and do go back
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_CHOSEN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def take_share(workers: Workers, environment: MutableMapping[str, str] = os.environ) -> None:
    """Have this process take its share of the cores, and keep the memory that it will need again."""
    threads = threads_of(workers, os.cpu_count() or 1, environment)
    if threads:
        environment[_THREADS] = str(threads)
    if not any(name in environment for name in _CHOSEN):
        keep_memory()


def threads_of(workers: Workers, cores: int, environment: Mapping[str, str]) -> int:
    """How many threads a worker shall compute on; 0 = as its libraries choose.

    A single worker has all cores, as in TorchServe. Several would each take all of them, and lose
    more by waiting for one another than a run gains.

    >>> threads_of(Workers(4), 8, {}), threads_of(Workers(), 8, {}), threads_of(Workers(9), 8, {})
    (2, 0, 1)
    """
    if workers.least < 2 or _THREADS in environment:
        return 0
    return max(1, cores // workers.least)


def keep_memory() -> None:
    """Have the C library keep what is freed, up to a limit; without effect where it is not glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
