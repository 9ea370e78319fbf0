"""Memory that a handler's worker keeps between its runs.

Tensors of a run are freed at its end and allocated again by the next one. glibc returns such memory to the
kernel, so that each of its pages is a fault in the next run: a fifth of the time of a small network, half of
it in batches. Therefore it is kept while runs follow each other, and returned after an idle time. Settings of
the operator's environment have precedence.
"""

import contextlib
import ctypes
import os
from collections.abc import Mapping
from typing import Final

_KEPT_BYTES: Final = 256 << 20
_HEAP_BYTES: Final = 64 << 20  # larger pieces are mapped each for itself, and do go back
_SMALL_BYTES: Final = 16 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_CHOSEN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_memory(environment: Mapping[str, str] = os.environ) -> None:
    """Have glibc keep freed memory, up to a limit; without effect on other C libraries."""
    if any(name in environment for name in _CHOSEN):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


def give_back(environment: Mapping[str, str] = os.environ) -> None:
    """Return free memory to the kernel, except for what a small run needs."""
    if not any(name in environment for name in _CHOSEN):
        trim(_SMALL_BYTES)


def trim(pad: int = 0) -> None:
    """Have glibc return free memory except for some bytes; without effect on other C libraries."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(pad))
