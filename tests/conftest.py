"""What do all tests share?

None is skipped or run again unseen, and the collector walks only what is new.
"""

import collections
import gc
import itertools
import os
import subprocess
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import fork_server
import forked_hosts
import pytest
from forked_workers import ForkedWorkers
from hypothesis import settings
from process_state import ProcessState
from processor_time import ProcessorTimes
from soaking import IS_SOAK, size
from zoo import EXAMPLES, write_identity, write_mlp, write_moody, write_two

import salver
from salver.testing.process import ServerProcess

# A busy machine is no fault of the code's. What waits to land is held against the same examples each time, of
# which more would find little; a run by hand looks for new ones.
_IS_CI = "CI" in os.environ
settings.register_profile(
    "salver", deadline=None, derandomize=_IS_CI, max_examples=size(75 if _IS_CI else 150, 40)
)
settings.load_profile("salver")
# Hundreds of processes that tests start would each compile Salver again, and pytest each file of tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
#: Nobody balances loads here: servers that tests start end at once.
os.environ.setdefault("SALVER_DRAIN_DELAY", "0")
#: A server that has to import Salver first takes four times the work until it is ready.
ServerProcess.spawn = staticmethod(fork_server.start)
#: So many tests may fail in CI, beside thousands on a busy machine, that pass whenever they are run again.
MOST_AGAIN = 6
#: Files whose tests took longer, in seconds, are not run again as a whole.
LONG_S = 120.0
#: So many new modules are worth a freeze: a tenth of a framework.
_MANY_MODULES = 200
_frozen_modules = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=1, help="processes on which tests run (default: 1)")
    parser.addoption("--cpu", action="store_true", help="print processor time by folder and file")
    parser.addoption("--no-skips", action="store_true", help="fail when a test was skipped")
    help_again = (
        f"run those again that failed, if they are {MOST_AGAIN} at most: pass if they pass three times"
    )
    parser.addoption("--again-alone", action="store_true", help=help_again)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu"):
        config.pluginmanager.register(ProcessorTimes())
    if (workers := config.getoption("--workers")) > 1:
        config.pluginmanager.register(ForkedWorkers(config, workers))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Twelve thousand tests stay to the end: to walk them time and again takes as long as to collect them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of ``make soak`` alone or of the other build; mark properties for ``make soak``."""
    build = "compiled" if salver.is_compiled() else "pure"
    _leave_out(config, items, {item for item in items if build not in _builds(item)})
    if IS_SOAK:
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker("soak")
        return
    late = {item for item in items if any(mark.kwargs.get("only") for mark in item.iter_markers("soak"))}
    _leave_out(config, items, late)


def _builds(item: pytest.Item) -> tuple[str, ...]:
    mark = item.get_closest_marker("build")
    return ("pure", "compiled") if mark is None else mark.args


def _leave_out(config: pytest.Config, items: list[pytest.Item], some: set[pytest.Item]) -> None:
    if some:
        config.hook.pytest_deselected(items=list(some))
        items[:] = [item for item in items if item not in some]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Fork host processes instead of executing them; forked workers do so by themselves."""
    if session.config.getoption("--workers") == 1 and not session.config.option.collectonly:
        forked_hosts.begin()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that skipped tests (-ra names them); gives those that failed a second chance, if few."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = len(reporter.stats.get("skipped", ())) if session.config.getoption("--no-skips") else 0
    if skipped:
        reporter.ensure_newline()
        reporter.write_line(f"{skipped} skipped, and --no-skips allows none", red=True)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif session.exitstatus == pytest.ExitCode.TESTS_FAILED and session.config.getoption("--again-alone"):
        session.exitstatus = _again(reporter)


def _again(reporter: pytest.TerminalReporter) -> pytest.ExitCode:
    """Run those again that failed; the summary of the first run names them all the same.

    Once among all tests of their files, whose order may be the reason (unless that takes minutes), and twice
    alone, for a race is lost only at times: a busy machine passes three times, a defect does not.
    """
    reports = [*reporter.stats.get("failed", ()), *reporter.stats.get("error", ())]
    failed = sorted({report.nodeid for report in reports})
    if len(failed) > MOST_AGAIN:
        return pytest.ExitCode.TESTS_FAILED
    reporter.write_sep("=", f"{len(failed)} failed, and run again with their files, and twice alone")
    reporter._tw.flush()
    seconds: dict[str, float] = collections.defaultdict(float)
    for report in itertools.chain.from_iterable(reporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[_file(report.nodeid)] += report.duration
    among = sorted({_file(test) if seconds[_file(test)] < LONG_S else test for test in failed})
    for chosen in (among, failed, failed):
        command = [sys.executable, "-m", "pytest", "--verbose", "--no-skips", *chosen]
        if subprocess.run(command, cwd=reporter.config.rootpath).returncode:
            return pytest.ExitCode.TESTS_FAILED
    return pytest.ExitCode.OK


def _file(test: str) -> str:
    return test.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Freeze what tests have imported.

    Whatever unloads a model collects garbage, which takes seconds where several frameworks are walked.
    """
    global _frozen_modules
    if len(sys.modules) >= _frozen_modules + _MANY_MODULES:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo what a test leaves behind that the next one would find: tests run in any order."""
    before = ProcessState.now()
    yield
    if changed := before.restore():
        warnings.warn(f"{request.node.nodeid} left behind: {changed}", stacklevel=1)


@pytest.fixture
def executed_hosts() -> Iterator[None]:
    """Have the test start host processes as a server in production does."""
    with forked_hosts.executed():
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One real server for all tests that need no other, with every model of the zoo.

    It polls its repository and logs JSON, every request included.
    """
    folder: Path = tmp_path_factory.mktemp("server")
    root = folder / "repository"
    write_mlp(root / "mlp", 1)
    write_two(root)
    write_moody(root)
    for datatype in EXAMPLES:
        write_identity(root, datatype)
    options = ["--log-format", "json", "--access-log", "all"]
    with ServerProcess([root], folder / "log", options) as server:
        yield server.wait_ready()
