"""How does memory that an unloaded model held get back to the system?"""

import ctypes
import gc


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
