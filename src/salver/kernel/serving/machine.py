"""What the machine has, as far as bounds depend on it."""

import os
from contextlib import suppress
from pathlib import Path


def memory_bytes() -> int:
    """Memory of this machine, or of the control group if that has less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # "max" where there is none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)
