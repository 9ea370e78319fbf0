"""Which memory does a worker of a handler keep between its runs?

A run's tensors are freed at its end and wanted again by the next one. glibc gives such memory back to the
kernel by itself, and each of its pages is a fault of the next run: a fifth of the time of a small network,
half of it in batches. So it is kept while runs follow each other, and goes back when none comes for a while.
What the operator has set in the environment stays.
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
    """Have the C library keep what is freed, up to a limit; without effect where it is not glibc."""
    if any(name in environment for name in _CHOSEN):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


def give_back(environment: Mapping[str, str] = os.environ) -> None:
    """Give back what is free, since nobody asks for anything; as much as a small run wants stays."""
    if not any(name in environment for name in _CHOSEN):
        trim(_SMALL_BYTES)


def trim(pad: int = 0) -> None:
    """Have the C library give back what is free, but for so many bytes; none but glibc does."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(pad))
