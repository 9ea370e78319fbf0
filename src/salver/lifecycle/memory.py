"""How do the collector, the interpreter and the C library suit a process that serves?"""

import ctypes
import gc
import sys


def tune_interpreter() -> None:
    """For processes that do nothing else than to serve.

    What is loaded now stays: the collector need not walk it again and again under load (tens of
    milliseconds each time), nor look at the few hundred objects of the requests in flight every few
    milliseconds. And the loop gets the interpreter back from another thread after half a millisecond: by
    default one that looks at the disk keeps it for five, which is the tail of a model of two.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    sys.setswitchinterval(0.0005)


def give_back_memory() -> None:
    """Collect cycles, then have the C library return its free pages, where it knows how to.

    Blocking (tens of milliseconds in a large process); glibc keeps freed memory otherwise.
    """
    is_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()  # what was frozen may be what was unloaded
    gc.collect()
    if is_frozen:
        gc.freeze()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim(0)
