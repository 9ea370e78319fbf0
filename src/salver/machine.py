"""Usable cores, memory and GPUs; collector, interpreter and C library of a process that only serves."""

import contextlib
import ctypes
import functools
import gc
import itertools
import math
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

_ONE_AT_A_TIME = threading.Lock()
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
#: Variables that set the thresholds.
_SIZES = frozenset(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"))
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUPS = Path("/sys/fs/cgroup")
_GPU = re.compile(r"nvidia\d+")
#: Variable that lists the GPUs that CUDA shows, by number or name.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
#: Bytes of a piece on the heap, for runs (at most) and while a model loads: larger ones are mapped.
_LARGEST, _LARGEST_OF_LOADS = 32 << 20, 4 << 20
#: Growth that is not worth a collection: bytes, or a part of what is used if that is more. To look at all
#: objects takes long: what was imported, and what lived when a framework was.
_LITTLE, _SHARE, _SHARE_FOR_ALL = 4 << 20, 1 / 32, 1 / 4
_tuned = threading.Event()  # objects frozen by this process


def tune_interpreter() -> None:
    """Tune the garbage collector and the interpreter for a process that only serves.

    Objects that exist now stay: the collector need not traverse them repeatedly under load (tens of
    milliseconds each time), nor the few hundred objects of active requests every few milliseconds. The switch
    interval is half a millisecond: with the default, a thread that polls the disk keeps the event loop
    waiting for five, which shows in the tail latency of a model of two.
    """
    gc.freeze()  # without a collection, which finds little here and delays the first answers by 20 ms
    _tuned.set()
    gc.set_threshold(20_000, 50, 100)
    sys.setswitchinterval(0.0005)


class _Collected:
    """Resident bytes of this process after its last collection for an unloaded model, and the last of all.

    What is imported later counts as if it had been there.
    """

    resident = of_all = 0


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Have collections leave alone what exists after an import, which stays."""
    before = resident_bytes(os.getpid())
    yield
    if _tuned.is_set():
        gc.freeze()
        growth = max(0, resident_bytes(os.getpid()) - before)
        _Collected.resident += growth
        _Collected.of_all += growth


@functools.cache
def memory_bytes(root: Path = _GROUPS, own: str = "") -> int:
    """Return the memory of this machine, or of a control group of this process if that has less.

    Args:
        root, own: As of :func:`usable_cores`.
    """
    limits = [_PAGE * os.sysconf("SC_PHYS_PAGES")]
    for folder in _own_groups("memory", root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max" where there is none
                limits.append(int((folder / name).read_text()))
    return min(limits)


def usable_cores(root: Path = _GROUPS, own: str = "") -> int:
    """Return the cores that this process may use: by affinity, or fewer by the quotas of its control groups.

    A part of a core counts as one. ``docker run --cpus`` and limits of Kubernetes set only a quota: threads
    beyond it use it up early in each period, and all wait for the next one. A host process may be pinned to
    fewer cores than its server: what it was told before that is not kept.

    Args:
        root: Where the hierarchies of control groups are mounted.
        own: This process's groups, as in ``/proc/self/cgroup``; empty = as there.
    """
    limits = [len(os.sched_getaffinity(0))]
    for folder in _own_groups("cpu", root, own):
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            limits.append(math.ceil(quota / period))
        with contextlib.suppress(OSError, ValueError):
            quota = int((folder / "cpu.cfs_quota_us").read_text())
            if quota > 0:  # -1 where there is none
                limits.append(math.ceil(quota / int((folder / "cpu.cfs_period_us").read_text())))
    return max(1, min(limits))


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """Count NVIDIA GPUs that CUDA would show to a process with this environment, without a library."""
    try:
        there = sum(_GPU.fullmatch(entry.name) is not None for entry in devices.iterdir())
    except OSError:
        return 0
    visible = environment.get(VISIBLE_GPUS)
    if visible is None:
        return there
    shown = itertools.takewhile(lambda name: _is_there(name, there), map(str.strip, visible.split(",")))
    return min(there, len(list(shown)))


def _is_there(name: str, count: int) -> bool:
    """Return whether a device is a valid index or a name; CUDA ignores all after the first invalid one."""
    return name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < count)


def _own_groups(controller: str, root: Path, own: str) -> Iterator[Path]:
    """Return the folders of this process's control groups, of versions 2 and 1, up to the root.

    In a container the path may be that of the host, which is not there: its limits are at the root then.
    """
    with contextlib.suppress(OSError):  # not Linux
        own = own or Path("/proc/self/cgroup").read_text()
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root
        elif controller in controllers.split(","):
            top = root / controller  # a link, where several share a hierarchy
        else:
            continue
        folder = top / path.lstrip("/")
        yield from (folder, *(each for each in folder.parents if each.is_relative_to(top)))


class _Heap:
    """Settings of glibc's heap, and who needs them.

    Attributes:
        keeps_freed: Large pieces are on the heap, unless a model loads.
        largest: Bytes of a piece on the heap for runs; twice as many may stay when they are free.
        loads: Models that load now.
    """

    keeps_freed = False
    largest = _LARGEST
    loads = 0
    lock = threading.Lock()


def keep_one_heap() -> None:
    """Limit glibc to one heap, before the process has threads.

    Otherwise glibc uses a heap for each of several threads, and ``malloc_trim`` returns memory only from the
    end of the first: up to 40 MB per heap remain after a model is unloaded. ``MALLOC_ARENA_MAX`` in the
    environment takes precedence.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _set_heap(_M_ARENA_MAX, 1)


def sleep_between_parts() -> None:
    """Have OpenMP's threads sleep soon after each part of a run, in this process and those that it starts.

    GNU's otherwise spin for milliseconds until the next part: beside other models or programs, a run of
    MobileNetV2 takes twice the processor time, one of LightGBM ten times, and alone they are no faster.
    The count is that of GNU's library where it has more threads than processors. A setting in the
    environment takes precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Have glibc keep some freed memory on its heap, once the first models are loaded.

    Otherwise it returns the end of the heap after each large request, and each page is a fault in the next
    one: 450 faults for a tensor of 600 kB, half of the processor time. The sizes are the largest that glibc
    learns by itself. Its variables in the environment take precedence.
    """
    if _SIZES.isdisjoint(os.environ):
        with _Heap.lock:
            _Heap.keeps_freed = True
            if not _Heap.loads:
                _set_heap(_M_MMAP_THRESHOLD, _Heap.largest)
            _set_heap(_M_TRIM_THRESHOLD, 2 * _Heap.largest)


def bound_freed_memory(most: int) -> None:
    """Have the next :func:`keep_freed_memory` keep at most so many bytes at the end of the heap."""
    _Heap.largest = min(_LARGEST, most // 2)


@contextlib.contextmanager
def mapping_weights() -> Iterator[None]:
    """Have glibc map what is large, instead of taking it from the heap, while a model loads.

    It goes back to the system as soon as it is freed then. On the heap it leaves holes that the next load
    does not fit into: ONNX Runtime's load of 21 MB takes 36 MB at most in place of 60. Without
    :func:`keep_freed_memory`, glibc maps even smaller pieces by itself.
    """
    with _Heap.lock:
        _Heap.loads += 1
        if _Heap.keeps_freed:
            _set_heap(_M_MMAP_THRESHOLD, min(_LARGEST_OF_LOADS, _Heap.largest))
    try:
        yield
    finally:
        with _Heap.lock:
            _Heap.loads -= 1
            if _Heap.keeps_freed and not _Heap.loads:
                _set_heap(_M_MMAP_THRESHOLD, _Heap.largest)


def _set_heap(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).mallopt(option, value)


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process; 0 = it has ended, or the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def give_back_memory(enough: int = -1) -> None:
    """Return free pages to the system if the C library can, after collecting cycles if that is needed.

    Blocking. A collection holds the interpreter: in a process with many frameworks for half a second if it
    looks at all objects, for some tens of milliseconds if it leaves out those that existed when the last
    framework was imported. Objects frozen by an embedding program stay frozen: traversing a large program
    takes seconds.

    Args:
        enough: Resident bytes of this process at which nothing is left to collect; nor is anything if it has
            hardly grown since the last collection, as by updates of a small model. -1 = collect all.
    """
    with _ONE_AT_A_TIME:  # a concurrent collection would make this one a no-op
        trim_heap()
        if _is_enough(enough, _Collected.resident, _SHARE):
            return
        if _tuned.is_set() and enough >= 0:
            gc.collect()
            trim_heap()
            _Collected.resident = resident_bytes(os.getpid())
            if _is_enough(enough, _Collected.of_all, _SHARE_FOR_ALL):
                return
        if _tuned.is_set():
            gc.unfreeze()  # frozen objects may belong to the unloaded model
        gc.collect()
        if _tuned.is_set():
            gc.freeze()
        trim_heap()
        _Collected.resident = _Collected.of_all = resident_bytes(os.getpid())


def _is_enough(enough: int, collected: int, share: float) -> bool:
    """Return whether as little memory is used as is enough, or hardly more than when it was collected."""
    return enough >= 0 and resident_bytes(os.getpid()) <= max(
        enough, collected + max(_LITTLE, int(collected * share))
    )


def trim_heap() -> None:
    """Return free pages of the heap to the system if the C library can. Blocking, without the interpreter."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
