"""Limits on the processor of a host process: its cores, and a quota of time. Set by the host itself.

Cores are set by affinity, which every Linux process may narrow for itself. A quota needs a control group that
this user may write: ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` of version 1.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from salver.words.artifacts import Instances
from salver.words.errors import LoadFailed

_PERIOD_US: Final = 100_000
_LEAST_US: Final = 1_000  # the kernel's least quota
_PREFIX: Final = "salver-host-"
_ROOT: Final = Path("/sys/fs/cgroup")


def confine(wish: Instances, instance: int, threads: int) -> None:
    """Confine this process to a model's cores and quota; what it starts later inherits both.

    Args:
        instance: Number of the instance that it runs; with enough cores, each instance has its own.

    Raises:
        LoadFailed: the system does not allow it.
    """
    if wish.cpus:
        _set_cores(own_cores(wish.cpus, instance, threads))
    if wish.cpu_quota:
        groups = find_groups(_ROOT, Path("/proc/self/cgroup").read_text("ascii"))
        if groups is None:
            raise LoadFailed(
                "instances.cpu_quota needs a control group of the processor that this user may write, and "
                "there is none",
                field="instances.cpu_quota",
                fix="Delegate one to the server, or give the model cores of its own: instances.cpus.",
            )
        limit_time(groups, wish.cpu_quota, os.getpid())


def own_cores(cpus: Sequence[int], instance: int, threads: int) -> list[int]:
    """Return the cores of one instance: its own if there are enough, else all.

    >>> own_cores((4, 5, 6, 7), instance=1, threads=2), own_cores((4, 5), instance=1, threads=2)
    ([6, 7], [4, 5])
    """
    first = instance * threads
    if first + threads <= len(cpus):
        return list(cpus[first : first + threads])
    return list(cpus)


def _set_cores(cpus: Sequence[int]) -> None:
    allowed = os.sched_getaffinity(0)
    if not allowed.issuperset(cpus):
        missing = ", ".join(map(str, sorted(set(cpus) - allowed)))
        raise LoadFailed(
            f"instances.cpus names cores that the server may not use: {missing}",
            field="instances.cpus",
            fix=f"It may use {', '.join(map(str, sorted(allowed)))}.",
        )
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208  # threads of libraries that are imported already
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task), cpus)


class Groups(NamedTuple):
    """Control group below which groups for processes can be made.

    Attributes:
        version: 1 or 2, of the interface.
    """

    folder: Path
    version: int


def find_groups(root: Path, own: str) -> Groups | None:
    """Return where control groups with a quota can be made; None = nowhere.

    Args:
        root: Where the hierarchies are mounted.
        own: This process's groups, as in ``/proc/self/cgroup``.
    """
    for text in own.splitlines():
        _, controllers, path = text.split(":", 2)
        if not controllers:
            # A group that has processes may give no controller to its children: then beside it.
            here = root / path.lstrip("/")
            places = [Groups(here, 2), Groups(here.parent, 2)] if path != "/" else [Groups(here, 2)]
            places = [place for place in places if _gives_processor(place.folder)]
        elif "cpu" in controllers.split(","):
            places = [Groups(root / name / path.lstrip("/"), 1) for name in ("cpu", controllers)]
        else:
            continue
        for place in places:
            if place.folder.is_dir() and os.access(place.folder, os.W_OK):
                return place
    return None


def _gives_processor(folder: Path) -> bool:
    try:
        return "cpu" in (folder / "cgroup.subtree_control").read_text("ascii").split()
    except OSError:
        return False


def limit_time(groups: Groups, quota: float, pid: int) -> None:
    """Put a process into a new group that may use so many cores' worth of time.

    Raises:
        LoadFailed: the system refuses.
    """
    _sweep(groups.folder)
    folder = groups.folder / f"{_PREFIX}{pid}"
    micros = max(_LEAST_US, round(quota * _PERIOD_US))
    try:
        folder.mkdir(exist_ok=True)
        if groups.version == 2:
            (folder / "cpu.max").write_text(f"{micros} {_PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(micros))
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise LoadFailed(
            f"instances.cpu_quota: {folder}: {error.strerror or error}",
            field="instances.cpu_quota",
            fix="Delegate the control group to the server, or leave out the quota.",
        ) from error


def _sweep(folder: Path) -> None:
    """Remove the groups of hosts that are gone; the kernel refuses to remove one with a process."""
    for group in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            group.rmdir()
