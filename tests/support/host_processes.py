"""Manifest, recovery, and what host processes may leave behind: children, descriptors, segments."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from salver.kernel.engine.process import Recovery
from salver.kernel.supervise import Backoff
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

MANIFEST = Manifest(ModelId("m", "7"), Path("/nowhere"), "test", "test")


def recovery(sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float] = lambda: 0.0) -> Recovery:
    return Recovery(Backoff(), clock, sleep, lambda: 0.5)


async def at_once(seconds: float) -> None:
    pass


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def segments() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:salver:")


OTHERS: set[str] = set()


def all_children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # threads end meanwhile
            found += (task / "children").read_text().split()
    return found


def children() -> list[str]:
    return [pid for pid in all_children() if pid not in OTHERS]
