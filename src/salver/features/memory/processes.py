"""Memory of this process and of those that it started. Blocking, a few microseconds to 30 ms a process.

The proportional set size (PSS) counts a page that several processes share by its share, so that the sum over
processes is what they use together. Reading it takes time in proportion to the memory; the resident set size
does not, and changes by as much while what is shared stays the same (proc(5): ``statm``, ``smaps_rollup``,
``status``, ``clear_refs``).
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from salver.features.memory.ports import DeviceUse, Usage, Use
from salver.machine import resident_bytes, trim_heap

_FORGET_PEAK: Final = "5"  # for clear_refs
_TRIES: Final = 3  # to read all processes while none begins or ends


def tree(root: int) -> list[int]:
    """Return the ids of a process and of all that it started, directly or not."""
    found = [root]
    for pid in found:  # the list grows while it is read
        found.extend(_children(pid))
    return found


def _trees(root: int) -> dict[int, list[int]]:
    return {child: tree(child) for child in _children(root)}


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # Path takes three times as long  # noqa: PTH208
            with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:  # noqa: PTH123
                yield from map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return


def pss(pids: list[int]) -> int:
    """Return the sum of the proportional sets, in bytes."""
    return sum(use_of(pid).pss for pid in pids)


def use_of(pid: int) -> Use:
    """Return what a process uses; zeros if it has ended."""
    try:
        sizes = _sizes(pid, "smaps_rollup")
        own = sizes["Private_Clean"] + sizes["Private_Dirty"]
        status = _sizes(pid, "status")
        return Use(sizes["Pss"], own, status["VmRSS"], status["VmHWM"])
    except (FileNotFoundError, ProcessLookupError, KeyError):  # a zombie has no sizes
        return Use()
    except PermissionError:  # another user's
        resident = resident_bytes(pid)
        return Use(resident, resident, resident, resident)


def _sizes(pid: int, file: str) -> dict[str, int]:
    """Return the lines of a file of a process that tell kibibytes, as bytes."""
    lines = map(str.split, Path(f"/proc/{pid}/{file}").read_text("ascii", "replace").splitlines())
    return {line[0][:-1]: int(line[1]) << 10 for line in lines if line[-1:] == ["kB"]}


class ProcessMeter:
    """Memory of this process and its descendants.

    Args:
        fork_servers: Returns the ids of children that stay when models go. Called in any thread.
        devices: Returns what is used of devices. Called in any thread.
    """

    def __init__(
        self,
        fork_servers: Callable[[], Collection[int]] = tuple,
        devices: Callable[[], Mapping[int, DeviceUse]] = dict,
    ) -> None:
        self._fork_servers, self._devices = fork_servers, devices
        self._uses: dict[int, Use] = {}

    def read(self, *, is_exact: bool, trims: bool = False) -> Usage:
        """See :class:`~salver.features.memory.ports.Meter`."""
        if trims:
            trim_heap()  # what a load has freed is not in use
        root = os.getpid()
        trees = self._read_uses(root, is_exact)
        staying = self._fork_servers()
        hosts = {
            child: Use(*map(sum, zip(*(self._uses[pid] for pid in each), strict=True)))
            for child, each in trees.items()
            if child not in staying
        }
        shared = sum(use.pss for use in self._uses.values()) - self._uses[root].pss
        shared -= sum(use.own for use in hosts.values())
        return Usage(self._uses[root], hosts, shared, self._devices())

    def _read_uses(self, root: int, is_exact: bool) -> Mapping[int, Collection[int]]:
        """Read the uses, and return the processes of each child."""
        # A process that begins or ends changes the shares of the others.
        trees = _trees(root)
        if not is_exact and self._uses.keys() == {root, *chain(*trees.values())}:
            self._uses = {pid: _grown(use, resident_bytes(pid)) for pid, use in self._uses.items()}
            peak = _sizes(root, "status").get("VmHWM", 0)  # also between two measurements
            self._uses[root] = self._uses[root]._replace(peak=peak)
            return trees
        for _ in range(_TRIES):
            before = trees
            self._uses = {pid: use_of(pid) for pid in (root, *chain(*before.values()))}
            trees = _trees(root)
            if trees == before:
                break
        return before

    def forget_peak(self) -> None:
        """See :class:`~salver.features.memory.ports.Meter`."""
        with contextlib.suppress(OSError):  # then it is that of the server's whole life
            Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)


def _grown(use: Use, resident: int) -> Use:
    """Return the use of a process whose resident set has changed since it was read."""
    more = resident - use.resident
    return Use(max(0, use.pss + more), max(0, use.own + more), resident, max(use.peak, resident))
