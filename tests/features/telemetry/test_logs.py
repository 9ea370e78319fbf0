import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.encoding.escaping import escape
from salver.kernel.logs import BURST, WINDOW_SECONDS, LogConfig, configure, trace_id


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def to_json(level: str = "info", clock: Clock | None = None) -> io.StringIO:
    stream = io.StringIO()
    configure(LogConfig(level=level, format="json"), stream=stream, clock=clock or Clock())  # type: ignore[arg-type]
    return stream


def test_our_lines_and_the_libraries_have_one_form() -> None:
    stream = to_json()
    fields = {"event": "host restarted", "model": "fraud", "version": "7"}
    logging.getLogger("salver.engine").info(fields)
    logging.getLogger("somebody.else").warning("disk %s is %d%% full", "sda", 91)
    ours, theirs = lines(stream)
    assert (
        ours.items()
        >= {
            "level": "info",
            "event": "host restarted",
            "logger": "salver.engine",
            "model": "fraud",
            "version": "7",
        }.items()
    )
    assert theirs.items() >= {"level": "warning", "event": "disk sda is 91% full"}.items()
    for line in (ours, theirs):
        assert str(line["timestamp"]).endswith("Z")


def test_the_level_is_honoured_by_ours_and_theirs() -> None:
    stream = to_json("warning")
    logging.getLogger("salver").info({"event": "quiet"})
    logging.getLogger("lib").info("quiet")
    logging.getLogger("lib").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_an_exception_stays_in_its_line() -> None:
    stream = to_json()
    try:
        raise KeyError("no\x1b[31m")
    except KeyError:
        logging.getLogger("salver").exception({"event": "it broke"})
    (line,) = lines(stream)
    assert "Traceback" in str(line["exception"])
    assert "\x1b" not in stream.getvalue()


def test_warnings_are_logged() -> None:
    stream = to_json()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in str(lines(stream)[0]["event"])


@given(st.text())
def test_no_text_makes_a_second_line_or_an_escape_sequence(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert escaped.isprintable() or not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in escaped)
    escaped.encode()


@pytest.mark.parametrize("form", ["json", "console"])
def test_forged_lines_are_defused(form: str) -> None:
    stream = io.StringIO()
    configure(LogConfig(format=form), stream=stream)  # type: ignore[arg-type]
    log = logging.getLogger("salver")
    log.info({"event": "loading", "model": 'x"\n{"event":"forged"}\r\x1b[2J\x85\u2028\ud800\u202e'})
    logging.getLogger("lib").info("read %s", "a\nb")
    assert len(stream.getvalue().splitlines()) == 2
    assert not {"\x1b", "\x85", "\u2028", "\u202e"} & set(stream.getvalue())


def test_a_console_traceback_cannot_pass_for_a_line_of_ours() -> None:
    stream = io.StringIO()
    configure(LogConfig(format="console"), stream=stream)
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z [info] all is well")
    except ValueError:
        logging.getLogger("lib").exception("bad")
    first, *rest = stream.getvalue().splitlines()
    assert "bad" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_colour_only_on_a_terminal() -> None:
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        configure(LogConfig(format="console"), stream=stream)
        logging.getLogger("lib").warning("look")
        assert ("\x1b[" in stream.getvalue()) is coloured


def test_auto_is_json_unless_someone_looks() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    configure(LogConfig(), stream=pipe)
    logging.getLogger("lib").warning("a")
    configure(LogConfig(), stream=terminal)
    logging.getLogger("lib").warning("b")
    assert lines(pipe)[0]["event"] == "a"
    assert not terminal.getvalue().startswith("{")


def test_configuring_again_replaces_only_our_handler() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = to_json(), to_json()
    logging.getLogger("lib").warning("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1
    assert other in logging.getLogger().handlers


def test_a_repeated_warning_is_held_back_and_counted() -> None:
    clock = Clock()
    stream = to_json(clock=clock)
    log = logging.getLogger("salver")
    for _ in range(BURST + 20):
        log.error({"event": "host died", "model": "a"})
    log.error({"event": "host died", "model": "b"})
    assert [line["model"] for line in lines(stream)] == ["a"] * BURST + ["b"]
    clock.now += WINDOW_SECONDS
    log.error({"event": "host died", "model": "a"})
    assert lines(stream)[-1]["repeated"] == 20


def test_the_count_is_told_for_libraries_too() -> None:
    clock = Clock()
    stream = to_json(clock=clock)
    for number in range(BURST + 3):
        logging.getLogger("lib").error("lost %d", number)
    clock.now += WINDOW_SECONDS
    logging.getLogger("lib").error("lost %d", 99)
    assert lines(stream)[-1]["event"] == "lost 99 (repeated 3 times)"


def test_information_is_never_held_back() -> None:
    stream = to_json()
    for _ in range(BURST * 4):
        logging.getLogger("lib").info("tick")
    assert len(lines(stream)) == BURST * 4


def test_trace_id() -> None:
    assert trace_id("00-" + "a" * 32 + "-" + "b" * 16 + "-01") == "a" * 32
    assert trace_id("") == ""
    assert trace_id("nonsense") == ""
