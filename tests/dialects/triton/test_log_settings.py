"""Effect of Triton's log settings on the log (TR-R10, TR-F5)."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.dialects.triton.log_settings import LogSwitches
from salver.dialects.triton.settings import LogChange, LogSettings
from salver.kernel.logs import LogConfig, configure, let_through
from salver.words.errors import InvalidInput, Unsupported

ALL = {"debug", "info", "warning", "error", "critical"}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


class Rig:
    def __init__(self, config: LogConfig | None = None) -> None:
        self.stream = io.StringIO()
        self.config = config or LogConfig(format="json")
        configure(self.config, stream=self.stream)
        self.switches = LogSwitches(self.config.file, self.config.levels(), let_through)

    def heard(self, **change: bool | int | str) -> set[str]:
        """The levels of which a line is written after a change."""
        self.switches.update(change)
        begin = self.stream.tell()
        log = logging.getLogger("somebody")
        for level in ALL:
            getattr(log, level)(level)
        log.log(25, "info")
        return {json.loads(line)["event"] for line in self.stream.getvalue()[begin:].splitlines()}


@pytest.mark.clause("TR-R10")
def test_each_switch_does_what_it_says() -> None:
    rig = Rig()
    assert rig.heard() == ALL - {"debug"}
    assert rig.heard(log_info=False) == ALL - {"debug", "info"}
    assert rig.heard(log_warning=False) == {"error", "critical"}
    assert rig.heard(log_error=False) == set()
    assert rig.heard(log_info=True) == {"info"}
    assert rig.heard(log_verbose_level=1) == {"debug", "info"}
    assert rig.heard(log_warning=True, log_error=True, log_verbose_level=0) == ALL - {"debug"}


@pytest.mark.clause("TR-R10")
def test_settings_come_back_as_they_are() -> None:
    rig = Rig()
    assert rig.switches.update({}) == LogSettings()
    change: LogChange = {"log_verbose_level": 3, "log_format": "ISO8601", "log_error": False}
    changed = LogSettings(log_verbose_level=3, log_format="ISO8601", log_error=False)
    assert rig.switches.update(change) == changed
    assert rig.switches.update({}) == changed


@pytest.mark.clause("TR-F5")
@pytest.mark.parametrize(
    ("level", "settings"),
    [
        ("debug", LogSettings(log_verbose_level=1)),
        ("info", LogSettings()),
        ("warning", LogSettings(log_info=False)),
        ("error", LogSettings(log_info=False, log_warning=False)),
    ],
)
def test_the_level_of_the_start_is_shown(level: str, settings: LogSettings) -> None:
    rig = Rig(LogConfig(level=level, format="json"))  # type: ignore[arg-type]
    assert rig.switches.update({}) == settings
    expected = rig.heard()
    assert ("debug" in expected, "info" in expected, "warning" in expected) == (
        settings.log_verbose_level > 0,
        settings.log_info,
        settings.log_warning,
    )


@pytest.mark.clause("TR-F5")
def test_a_level_that_is_silenced_from_the_start() -> None:
    rig = Rig(LogConfig(format="json", silenced=("warning",)))
    assert rig.switches.update({}) == LogSettings(log_warning=False)
    assert rig.heard() == {"info", "error", "critical"}
    assert rig.heard(log_warning=True) == ALL - {"debug"}


def test_both_formats_have_the_time_in_iso_8601() -> None:
    rig = Rig()
    for form in ("default", "ISO8601"):
        rig.switches.update({"log_format": form})
        logging.getLogger("somebody").warning("now")
    times = [json.loads(line)["timestamp"] for line in rig.stream.getvalue().splitlines()]
    assert len(times) == 2
    assert all(time[10] == "T" and time.endswith("Z") for time in times)


def test_the_log_of_a_program_around_us_is_its_own() -> None:
    """An embedded server reads settings; it cannot change what it has not configured."""
    root = logging.getLogger()
    level = root.level
    switches = LogSwitches("", LogConfig().levels(), let_through)
    assert switches.update({}) == LogSettings()
    with pytest.raises(Unsupported, match="program that embeds"):
        switches.update({"log_info": False})
    assert switches.update({}) == LogSettings()
    assert root.level == level
    assert not let_through(frozenset())


@pytest.mark.clause("TR-F5")
def test_a_file_takes_the_log_and_keeps_what_was_in_it(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("before\n")
    config = LogConfig(format="json", file=str(path))
    configure(config)
    logging.getLogger("somebody").warning("behind it")
    first, second = path.read_text().splitlines()
    assert first == "before"
    assert json.loads(second)["event"] == "behind it"
    assert LogSwitches(config.file, config.levels(), let_through).update({}).log_file == str(path)


def test_a_log_file_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        configure(LogConfig(file=str(tmp_path / "nowhere" / "log")))
