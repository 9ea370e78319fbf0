"""What do all tests share? That none is skipped unseen, and that the collector walks only what is new."""

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A busy machine is no fault of the code's. What waits to land is held against the same examples each time;
# a run by hand looks for new ones.
settings.register_profile("salver", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("salver")


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
    """Turns a run with skipped tests into a failed one; their reasons stand in the summary (-ra)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--no-skips") or reporter is None:
        return
    skipped = len(reporter.stats.get("skipped", ()))
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{skipped} skipped, and --no-skips allows none", red=True)
