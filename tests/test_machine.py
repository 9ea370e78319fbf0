"""What the machine lets this process use, and memory that is given back."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import PATIENCE_S

from salver import machine


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that other tests load in this process get memory as before."""
    monkeypatch.setattr(machine._Heap, "keeps_freed", False)
    monkeypatch.setattr(machine._Heap, "largest", machine._LARGEST)


@pytest.mark.parametrize(("wish", "asked"), [(None, [(-8, 1)]), ("4", [])])
def test_one_heap_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, wish: str | None, asked: list[tuple[int, int]]
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda key, value: calls.append((key, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if wish:
        monkeypatch.setenv("MALLOC_ARENA_MAX", wish)
    machine.keep_one_heap()
    assert calls == asked


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_of_openmp_sleep_soon_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], count: str | None
) -> None:
    monkeypatch.setattr(os, "environ", given)
    machine.sleep_between_parts()
    assert given.get("GOMP_SPINCOUNT") == count


@pytest.mark.parametrize(
    ("wish", "asked"),
    [("", [(-3, 32 << 20), (-1, 64 << 20)]), ("MALLOC_TRIM_THRESHOLD_", []), ("GLIBC_TUNABLES", [])],
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, wish: str, asked: list[tuple[int, int]]
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda key, value: calls.append((key, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in machine._SIZES:
        monkeypatch.delenv(name, raising=False)
    if wish:
        monkeypatch.setenv(wish, "4")
    machine.keep_freed_memory()
    assert calls == asked


HEAP = """
import os, sys
from salver import machine
machine.keep_one_heap()
if len(sys.argv) > 1:
    machine.bound_freed_memory(int(sys.argv[1]))
machine.keep_freed_memory()
before = machine.resident_bytes(os.getpid())
pieces = [b"1" * (5 << 20) for _ in range(10)]
del pieces
print((machine.resident_bytes(os.getpid()) - before) >> 20)
"""


@pytest.mark.parametrize(("bound", "least", "most"), [([], 45, 55), ([str(16 << 20)], 0, 16)])
def test_as_much_freed_memory_is_kept_as_the_budget_allows(bound: list[str], least: int, most: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in machine._SIZES}
    command = [sys.executable, "-c", HEAP, *bound]
    told = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=PATIENCE_S)
    assert least <= int(told.stdout) <= most


def test_weights_are_mapped_while_any_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda key, value: calls.append((key, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in machine._SIZES:
        monkeypatch.delenv(name, raising=False)
    with machine.mapping_weights():
        assert not calls, "a program that embeds the server has a heap of its own"
    machine.keep_freed_memory()
    calls.clear()
    with machine.mapping_weights():
        with machine.mapping_weights():
            assert calls[-1] == (-3, 4 << 20)
        assert calls[-1] == (-3, 4 << 20)
    assert calls[-1] == (-3, 32 << 20)


def test_another_c_library_has_no_heaps_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    machine.keep_one_heap()
    machine.keep_freed_memory()
    machine.give_back_memory()


def test_memory_is_given_back_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection beside another one does nothing, and what it should have found would stay."""
    under_way, most = 0, 0
    both = threading.Event()

    def collect() -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        both.wait(0.05)
        under_way -= 1
        return 0

    monkeypatch.setattr(machine.gc, "collect", collect)
    threads = [threading.Thread(target=machine.give_back_memory) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == 1


def test_what_a_program_around_us_has_frozen_stays_frozen() -> None:
    """As of these tests: to walk them all takes seconds, each time that a model is unloaded."""
    machine.gc.freeze()
    before = machine.gc.get_freeze_count()
    assert before
    machine.give_back_memory()
    # Some of what is frozen ends meanwhile, by other threads; thawed, all of it would be counted no more.
    assert machine.gc.get_freeze_count() > before * 0.9


def test_nothing_is_collected_once_the_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    monkeypatch.setattr(machine.gc, "collect", lambda: collected.append(True))
    used = machine.resident_bytes(os.getpid())
    machine.give_back_memory(2 * used)
    assert not collected
    monkeypatch.setattr(machine._Collected, "resident", 0)
    machine.give_back_memory(used // 2)
    assert collected == [True]
    machine.give_back_memory(used // 2)
    assert collected == [True], "nothing has come since"
    kept = bytearray(used // 8)
    kept[:: 1 << 12] = bytes(len(kept[:: 1 << 12]))
    machine.give_back_memory(used // 2)
    assert collected == [True, True]
    machine.give_back_memory()
    assert collected == [True, True, True]
    del kept


@pytest.mark.parametrize("is_tuned", [True, False])
def test_what_was_frozen_here_is_looked_at_again(monkeypatch: pytest.MonkeyPatch, is_tuned: bool) -> None:
    said: list[str] = []
    names = ("collect", "freeze", "unfreeze", "set_threshold")
    calls = {name: lambda *_, name=name: said.append(name) for name in names}
    monkeypatch.setattr(machine, "gc", SimpleNamespace(**calls))
    monkeypatch.setattr(machine, "_tuned", threading.Event())
    interval = sys.getswitchinterval()
    if is_tuned:
        machine.tune_interpreter()
        sys.setswitchinterval(interval)
        assert said == ["freeze", "set_threshold"]
        said.clear()
    machine.give_back_memory()
    assert said == (["unfreeze", "collect", "freeze"] if is_tuned else ["collect"])


@pytest.mark.parametrize(
    ("mib", "calls"),
    [(103, []), (110, ["collect"]), (130, ["collect", "unfreeze", "collect", "freeze"])],
)
def test_all_objects_are_looked_at_only_if_the_process_has_grown_much(
    monkeypatch: pytest.MonkeyPatch, mib: int, calls: list[str]
) -> None:
    said: list[str] = []
    names = ("collect", "freeze", "unfreeze")
    monkeypatch.setattr(machine, "gc", SimpleNamespace(**{n: lambda n=n: said.append(n) for n in names}))
    monkeypatch.setattr(machine, "_tuned", threading.Event())
    machine._tuned.set()
    for name in ("resident", "of_all"):
        monkeypatch.setattr(machine._Collected, name, 100 << 20)
    monkeypatch.setattr(machine, "resident_bytes", lambda pid: mib << 20)
    machine.give_back_memory(0)
    assert said == calls


@pytest.mark.parametrize("is_tuned", [False, True])
def test_what_is_imported_is_left_alone_by_a_server_and_is_no_growth(
    monkeypatch: pytest.MonkeyPatch, is_tuned: bool
) -> None:
    frozen: list[bool] = []
    sizes = iter((100, 160))
    monkeypatch.setattr(machine, "gc", SimpleNamespace(freeze=lambda: frozen.append(True)))
    monkeypatch.setattr(machine, "_tuned", threading.Event())
    monkeypatch.setattr(machine, "resident_bytes", lambda pid: next(sizes))
    for name in ("resident", "of_all"):
        monkeypatch.setattr(machine._Collected, name, 10)
    if is_tuned:
        machine._tuned.set()
    with machine.importing():
        assert not frozen
    assert frozen == [True] * is_tuned
    assert (machine._Collected.resident, machine._Collected.of_all) == (10 + 60 * is_tuned,) * 2


_HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "own", "cores", "memory_mb"),
    [
        ({"pod/cpu.max": "50000 100000", "pod/memory.max": "67108864"}, "0::/pod/box", 1, 64),
        ({"pod/box/cpu.max": "max 100000", "pod/box/memory.max": "max"}, "0::/pod/box", _HERE, 0),
        ({"cpu.max": "100000 100000", "memory.max": "1048576"}, "0::/of/the/host", 1, 1),
        (
            {"cpu/box/cpu.cfs_quota_us": "1000", "cpu/box/cpu.cfs_period_us": "100000"},
            "3:cpu,cpuacct:/box",
            1,
            0,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            "3:cpuacct,cpu:/\n0::/",
            _HERE,
            0,
        ),
        ({"memory/memory.limit_in_bytes": "33554432"}, "4:memory:/libpod/x", _HERE, 32),
        ({"cpu.max": "9900000 100000"}, "0::/", _HERE, 0),
        ({}, "", _HERE, 0),
    ],
)
def test_limits_of_control_groups_count(
    tmp_path: Path, files: dict[str, str], own: str, cores: int, memory_mb: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = own or "0::/"
    assert machine.usable_cores(tmp_path, own) == min(cores, _HERE)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory_bytes(tmp_path, own) == (memory_mb << 20 or whole)
