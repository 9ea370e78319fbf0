"""The folder of environments: made once, whole or not at all, and bounded."""

import fcntl
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from waiting import PATIENCE_S, until

from salver.kernel.environments.cache import EnvironmentCache
from salver.kernel.environments.installing import run
from salver.words.errors import LoadFailed

GO = threading.Event()  # never set: nobody cancels


def filling(size: int = 10, log: Path | None = None) -> Callable[[Path, int], None]:
    def fill(folder: Path, lock: int) -> None:
        assert list(folder.iterdir()) == []
        (folder / "content").write_bytes(b"x" * size)
        if log is not None:
            with log.open("a") as file:
                file.write("made\n")

    return fill


def digests(cache: EnvironmentCache) -> list[str]:
    return [entry.digest for entry in cache.entries()]


def test_an_environment_is_made_once_for_all_who_want_it(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def hold(_: int) -> Path:
        return EnvironmentCache(tmp_path / "cache").hold("a", "o", "3.13", filling(10, log), GO).folder

    with ThreadPoolExecutor(8) as pool:
        assert {folder.name for folder in pool.map(hold, range(8))} == {"a"}
    assert log.read_text() == "made\n"
    (entry,) = EnvironmentCache(tmp_path / "cache").entries()
    assert (entry.origin, entry.python, entry.bytes, entry.is_used) == ("o", "3.13", 10, True)


class Pausing(threading.Event):
    """Nobody cancels; who looks for that, because another holds the lock, waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.is_reached.set()
        self.may_go_on.wait(PATIENCE_S)
        return False


def test_who_wants_to_make_it_takes_what_another_has_made_and_holds(tmp_path: Path) -> None:
    made = EnvironmentCache(tmp_path / "other").hold("a", "o", "3.13", filling(), GO)
    cache, log, pausing = tmp_path / "cache", tmp_path / "log", Pausing()
    cache.mkdir()
    with ThreadPoolExecutor(1) as pool, (cache / "a.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        holding = pool.submit(EnvironmentCache(cache).hold, "a", "o", "3.13", filling(10, log), pausing)
        assert pausing.is_reached.wait(PATIENCE_S)
        fcntl.flock(other, fcntl.LOCK_EX)
        shutil.copytree(made.folder, cache / "a")
        fcntl.flock(other, fcntl.LOCK_SH)
        pausing.may_go_on.set()
        wait([holding], PATIENCE_S)
        is_held = holding.done()
    assert is_held and holding.result().folder == cache / "a" and not log.exists()


def _die(folder: Path) -> None:
    def fill(target: Path, lock: int) -> None:
        (target / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    EnvironmentCache(folder).hold("a", "", "", fill, GO)


def test_what_a_killed_process_left_is_never_used(tmp_path: Path) -> None:
    dying = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    dying.start()
    dying.join()
    assert (tmp_path / "a" / "half").exists()
    cache = EnvironmentCache(tmp_path)
    assert cache.entries() == []
    held = cache.hold("a", "", "", filling(), GO)
    assert sorted(path.name for path in held.folder.iterdir()) == ["content", "salver.json"]


def _install(folder: Path, go: Path) -> None:
    waiting = (
        "import pathlib, sys, time\n"
        "pathlib.Path('half').touch()\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(.01)"
    )

    def fill(target: Path, lock: int) -> None:
        run([sys.executable, "-c", waiting, str(go)], target, "r.txt", GO, held=(lock,))

    EnvironmentCache(folder).hold("a", "", "", fill, GO)


def test_an_installer_that_outlives_its_server_keeps_others_out(tmp_path: Path) -> None:
    """It still writes into the folder, which is not made anew until it has ended."""
    cache, go = EnvironmentCache(tmp_path / "cache"), tmp_path / "go"
    server = multiprocessing.get_context("fork").Process(target=_install, args=(tmp_path / "cache", go))
    server.start()
    until((tmp_path / "cache" / "a" / "half").exists)
    server.kill()
    server.join()
    cache.prune(0)
    assert (tmp_path / "cache" / "a" / "half").exists()
    go.touch()
    until(lambda: not cache.prune(0) and not (tmp_path / "cache" / "a").exists())


def test_a_failure_leaves_nothing_and_the_next_one_tries_again(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)

    def fail(folder: Path, lock: int) -> None:
        (folder / "half").touch()
        raise LoadFailed("pip said no")

    with pytest.raises(LoadFailed, match="pip said no"):
        cache.hold("a", "", "", fail, GO)
    assert not (tmp_path / "a").exists()
    cache.hold("a", "", "", filling(), GO).release()
    assert digests(cache) == ["a"]


def test_an_interpreter_that_was_uninstalled_is_no_whole_environment(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)

    def fill(folder: Path, lock: int) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(tmp_path / "gone")

    cache.hold("a", "", "", lambda folder, lock: None, GO).release()
    fill(tmp_path / "a", 0)
    held = cache.hold("a", "", "", filling(), GO)
    assert (held.folder / "content").exists()


def test_those_used_last_are_kept_and_those_in_use_always(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)
    for age, name in enumerate(("new", "used", "old")):
        held = cache.hold(name, "", "", filling(100), GO)
        os.utime(tmp_path / name / "salver.json", (1000 - age, 1000 - age))
        if name != "used":
            held.release()
    (tmp_path / "partial").mkdir()
    assert digests(cache) == ["old", "used", "new"]
    assert [entry.digest for entry in cache.prune(250)] == ["old"]
    assert not (tmp_path / "partial").exists()
    assert [entry.digest for entry in cache.prune(0)] == ["new"]
    assert digests(cache) == ["used"]


def test_who_waits_for_another_can_be_cancelled(tmp_path: Path) -> None:
    stop, is_making, go_on = threading.Event(), threading.Event(), threading.Event()

    def fill(folder: Path, lock: int) -> None:
        is_making.set()
        go_on.wait()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(EnvironmentCache(tmp_path).hold, "a", "", "", fill, GO)
        is_making.wait()
        second = pool.submit(EnvironmentCache(tmp_path).hold, "a", "", "", filling(), stop)
        stop.set()
        with pytest.raises(LoadFailed, match="cancelled"):
            second.result()
        go_on.set()
        first.result().release()


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadFailed, match="no environment can be kept in") as failure:
        EnvironmentCache(tmp_path / "file" / "in").hold("a", "", "", filling(), GO)
    assert failure.value.fix == "Set XDG_DATA_HOME to a folder that the server may write."
