"""How do the collector, the interpreter and the C library suit a process that serves?"""

import contextlib
import ctypes
import gc
import os
import sys
import threading

_ONE_AT_A_TIME = threading.Lock()
_M_ARENA_MAX = -8  # malloc.h
_tuned = threading.Event()  # what is frozen in this process was frozen here


def tune_interpreter() -> None:
    """For processes that do nothing else than to serve.

    What is loaded now stays: the collector need not walk it again and again under load (tens of
    milliseconds each time), nor look at the few hundred objects of the requests in flight every few
    milliseconds. And the loop gets the interpreter back from another thread after half a millisecond: by
    default one that looks at the disk keeps it for five, which is the tail of a model of two.
    """
    gc.collect()
    gc.freeze()
    _tuned.set()
    gc.set_threshold(20_000, 50, 100)
    sys.setswitchinterval(0.0005)


def keep_one_heap() -> None:
    """For processes that do nothing else than to serve, before they have threads.

    glibc has a heap for each of a few threads otherwise, and ``malloc_trim`` returns no memory from the end
    of any but the first: up to 40 MB each stay, when a model that such a thread has loaded is gone.
    ``MALLOC_ARENA_MAX`` in the environment is obeyed.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Collect cycles, then have the C library return its free pages, where it knows how to.

    Blocking (tens of milliseconds in a large process); glibc keeps freed memory otherwise. What a program
    around us has frozen stays so: to walk all of a large one takes seconds.
    """
    with _ONE_AT_A_TIME:  # a second collection would find the first one at work, and do nothing
        if _tuned.is_set():
            gc.unfreeze()  # what was frozen may be what was unloaded
        gc.collect()
        if _tuned.is_set():
            gc.freeze()
        try:
            trim = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError, TypeError):  # not glibc
            return
        trim(0)
