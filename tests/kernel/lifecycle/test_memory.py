"""One heap for all threads, and memory that is given back."""

import ctypes
import os
import sys
import threading
from types import SimpleNamespace

import pytest
from waiting import PATIENCE_S

from salver.kernel.lifecycle import memory


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
    memory.keep_one_heap()
    assert calls == asked


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
    for name in memory._SIZES:
        monkeypatch.delenv(name, raising=False)
    if wish:
        monkeypatch.setenv(wish, "4")
    memory.keep_freed_memory()
    assert calls == asked


def test_another_c_library_has_no_heaps_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    memory.keep_one_heap()
    memory.keep_freed_memory()
    memory.give_back_memory()


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

    monkeypatch.setattr(memory.gc, "collect", collect)
    threads = [threading.Thread(target=memory.give_back_memory) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == 1


def test_what_a_program_around_us_has_frozen_stays_frozen() -> None:
    """As of these tests: to walk them all takes seconds, each time that a model is unloaded."""
    memory.gc.freeze()
    before = memory.gc.get_freeze_count()
    assert before
    memory.give_back_memory()
    # Some of what is frozen ends meanwhile, by other threads; thawed, all of it would be counted no more.
    assert memory.gc.get_freeze_count() > before * 0.9


def test_nothing_is_collected_once_the_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    monkeypatch.setattr(memory.gc, "collect", lambda: collected.append(True))
    used = memory.resident_bytes(os.getpid())
    memory.give_back_memory(2 * used)
    assert not collected
    memory.give_back_memory(used // 2)
    assert collected


@pytest.mark.parametrize("is_tuned", [True, False])
def test_what_was_frozen_here_is_looked_at_again(monkeypatch: pytest.MonkeyPatch, is_tuned: bool) -> None:
    said: list[str] = []
    names = ("collect", "freeze", "unfreeze", "set_threshold")
    calls = {name: lambda *_, name=name: said.append(name) for name in names}
    monkeypatch.setattr(memory, "gc", SimpleNamespace(**calls))
    monkeypatch.setattr(memory, "_tuned", threading.Event())
    interval = sys.getswitchinterval()
    if is_tuned:
        memory.tune_interpreter()
        sys.setswitchinterval(interval)
        assert said == ["freeze", "set_threshold"]
        said.clear()
    memory.give_back_memory()
    assert said == (["unfreeze", "collect", "freeze"] if is_tuned else ["collect"])
