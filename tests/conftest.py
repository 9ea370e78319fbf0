"""What do all tests share?

None is skipped or run again unseen, and the collector walks only what is new.
"""

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A busy machine is no fault of the code's. What waits to land is held against the same examples each time;
# a run by hand looks for new ones.
settings.register_profile("salver", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("salver")
#: So many tests may fail once in CI, beside thousands on a busy machine, and pass when they are run again.
MOST_AGAIN = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail when a test was skipped")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Twelve thousand tests stay to the end: to walk them time and again takes as long as to collect them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that skipped tests, or ran many of them again; the summary names them (-raR)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped, again = (len(reporter.stats.get(what, ())) for what in ("skipped", "rerun"))
    wrong = []
    if skipped and session.config.getoption("--no-skips"):
        wrong.append(f"{skipped} skipped, and --no-skips allows none")
    if again > MOST_AGAIN:
        wrong.append(f"{again} tests were run again, and {MOST_AGAIN} may be: that is not the machine")
    reporter.ensure_newline()
    for line in wrong:
        reporter.write_line(line, red=True)
    if wrong and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
