"""Manifest, recovery, and what host processes may leave behind: children, descriptors, segments."""

import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from waiting import auntil

from salver.kernel.engine.process import Recovery
from salver.kernel.supervise import Backoff
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

MANIFEST = Manifest(ModelId("m", "7"), Path("/nowhere"), "test", "test")


def recovery(sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float] = lambda: 0.0) -> Recovery:
    return Recovery(Backoff(), clock, sleep, lambda: 0.5)


async def at_once(seconds: float) -> None:
    pass


def descriptors() -> set[str]:
    """Return the open descriptors, each with what it leads to."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the folder, which has been read
            found.add(f"{entry.name} {entry.readlink()}")
    return found


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


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Wait at the end until what was opened is closed again; what others close does not count."""
    gc.collect()  # what other tests have left
    files, mapped, processes = descriptors(), segments(), set(all_children())
    yield

    def left() -> tuple[set[str], int, set[str]]:
        return descriptors() - files, max(segments() - mapped, 0), set(all_children()) - processes

    await auntil(lambda: left() == (set(), 0, set()), left)
