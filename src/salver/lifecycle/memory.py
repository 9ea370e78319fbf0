"""What becomes of the memory of models, and who looks at it?"""

import ctypes
import gc


def spare_the_collector() -> None:
    """What is loaded now stays: the collector need not walk it again and again under load (tens of
    milliseconds each time), nor look at the few hundred objects of the requests in flight every few
    milliseconds. For processes that do nothing else than to serve.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


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
