"""Tests on several processes (``--workers N``), forked when all tests are collected.

Collecting and importing is done once, in the process that reports: each worker has it by its fork. A worker
gets whole files, whose tests share fixtures: first a few pages or one file with loops at a time, then several
files with many short tests, and fewer as fewer are left.
"""

import atexit
import collections
import contextlib
import itertools
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import fork_server
import forked_hosts
import pytest
from _pytest._io import TerminalWriter

from salver.testing import process

#: Share of what is left that a worker gets at a time, for each worker.
_PART = 8
#: Files whose tests come first, since they take minutes together, and how many a worker gets at a time: pages
#: share nothing with the next, and trees the imports of half of the frameworks.
_APART = {"test_docs.py": 4, "test_slices.py": 100}
_LONG, _FILES, _OTHERS = range(3)


class ForkedWorkers:
    """Plugin that runs the collected tests on ``count`` forks of this process."""

    def __init__(self, config: pytest.Config, count: int) -> None:
        self._config = config
        self._count = count
        self._numbers = itertools.count()
        self._workers: dict[Connection, _Worker] = {}
        self._left: collections.deque[int] = collections.deque()
        self._ranks: list[int] = []  # of all tests

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Hand out tests until none is left; report what workers report."""
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest says so
        fork_server.running(())  # one for all workers, as is their folder
        if any(item.path.name == "test_docs.py" for item in session.items):
            fork_server.running(fork_server.SKLEARN)
        self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        self._reporter.showfspath = False
        self._ranks = _ranks(session.items)
        self._left.extend(sorted(range(len(session.items)), key=self._ranks.__getitem__))
        for _ in range(self._count):
            self._fork(session)
        while self._workers:
            for connection in wait(list(self._workers)):
                assert isinstance(connection, Connection)
                message = None
                with contextlib.suppress(EOFError):
                    message = connection.recv()
                if message is None:
                    self._bury(session, connection)
                else:
                    self._hear(session, connection, *message)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _fork(self, session: pytest.Session) -> None:
        mine, its = Pipe()
        number = next(self._numbers)
        if pid := os.fork():
            its.close()
            self._workers[mine] = _Worker(pid)
            return
        try:
            for other in (mine, *self._workers):
                other.close()
            _be_worker(session, its, number)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)

    def _hear(self, session: pytest.Session, connection: Connection, kind: str, content: object) -> None:
        worker = self._workers[connection]
        if kind == "next":
            connection.send(chosen := self._choose(session))
            worker.todo.extend(chosen)
        elif kind == "finished":
            assert isinstance(content, int)
            worker.todo.remove(content)
            item = session.items[content]
            self._config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        elif kind == "report":
            hook = self._config.hook
            report = hook.pytest_report_from_serializable(config=self._config, data=content)
            hook.pytest_runtest_logreport(report=report)
        elif kind == "warnings":
            self._reporter.stats.setdefault("warnings", []).extend(content)

    def _choose(self, session: pytest.Session) -> list[int]:
        """Return the next tests: whole files, but no two with loops."""
        if session.shouldfail or session.shouldstop or not self._left:
            return []
        rank, name = self._ranks[self._left[0]], session.items[self._left[0]].path.name
        count = -(-len(self._left) // (_PART * self._count))

        def goes_on(chosen: list[int]) -> bool:
            is_same = session.items[self._left[0]].path == session.items[chosen[-1]].path
            if rank == _LONG:
                return is_same and len(chosen) < _APART[name]
            return is_same or (rank == _OTHERS and len(chosen) < count)

        return self._take(goes_on)

    def _take(self, goes_on: Callable[[list[int]], bool]) -> list[int]:
        """Take tests of one rank from those that are left."""
        chosen = [self._left.popleft()]
        while self._left and self._ranks[self._left[0]] == self._ranks[chosen[-1]] and goes_on(chosen):
            chosen.append(self._left.popleft())
        return chosen

    def _bury(self, session: pytest.Session, connection: Connection) -> None:
        """Fail the test at which a worker ended, and have another one do the rest."""
        worker = self._workers.pop(connection)
        connection.close()
        _, status = os.waitpid(worker.pid, 0)
        if not worker.todo:
            return
        item = session.items[worker.todo.popleft()]
        ended = f"the worker ended with {os.waitstatus_to_exitcode(status)}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", ended, "call")
        self._config.hook.pytest_runtest_logreport(report=report)
        self._left.extendleft(reversed(worker.todo))
        self._fork(session)


def _ranks(items: list[pytest.Item]) -> list[int]:
    """Return when tests are run, so that those of seconds and minutes are not the last.

    First pages and slices, then files about the whole, and those with loops and loads.
    """
    whole = Path(__file__).parents[1]
    loops = {item.path for item in items if item.get_closest_marker("soak")}

    def rank(path: Path) -> int:
        if path.name in _APART:
            return _LONG
        if path.parent == whole or path in loops:
            return _FILES
        return _OTHERS

    return [rank(item.path) for item in items]


class _Worker:
    """What the reporting process knows of a worker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.todo: collections.deque[int] = collections.deque()


def _be_worker(session: pytest.Session, connection: Connection, number: int) -> None:
    """Run what is handed out, and tell what came of it."""
    config = session.config
    capture = config.pluginmanager.get_plugin("capturemanager")
    capture.stop_global_capturing()  # its files are shared with the other processes
    capture.start_global_capturing()
    capture.suspend_global_capture()
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reporter._tw = TerminalWriter(Path(os.devnull).open("w"))  # noqa: SIM115 - as long as this process
    folders = config._tmp_path_factory  # type: ignore[attr-defined]
    folders._basetemp = folders.getbasetemp() / f"worker-{number}"
    folders._basetemp.mkdir(mode=0o700)
    process._tried = itertools.count(random.randrange(len(process._PORTS)))  # not the ports of its siblings
    config.pluginmanager.register(_Teller(config, connection))
    forked_hosts.begin()
    try:
        for index, following in itertools.pairwise(itertools.chain(_tests(connection), [None])):
            item, after = session.items[index], None if following is None else session.items[following]
            config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            connection.send(("finished", index))
        connection.send(("warnings", reporter.stats.get("warnings", [])))
    finally:  # the reporting process may have been ended
        session._setupstate.teardown_exact(None)
        atexit._run_exitfuncs()


def _tests(connection: Connection) -> Iterator[int]:
    while True:
        connection.send(("next", None))
        chosen = connection.recv()
        if not chosen:
            return
        yield from chosen


class _Teller:
    """Plugin of a worker that passes reports on."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))
