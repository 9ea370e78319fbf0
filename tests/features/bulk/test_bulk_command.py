"""What ``salver infer --from --to`` shows, without a server."""

import os
import pty
import sys
from pathlib import Path

import pytest

from salver.cli import main
from salver.features.bulk import Job, Progress, Summary
from salver.features.bulk.command import _Bar, _clock_of, _JobProgress, parse_columns, plain, sentence
from salver.words.errors import InvalidInput

JOB = Job(model="m", source=Path("in.csv"), target=Path("out.csv"))


@pytest.mark.parametrize("word", ["x", "x=", "=a", "x=a,,b"])
def test_columns_that_name_nothing(word: str) -> None:
    with pytest.raises(InvalidInput, match="is not INPUT=COLUMN"):
        parse_columns([word])


def test_plain_lines_come_seldom_and_waiting_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    shown = _JobProgress(JOB, clock=lambda: now[0])
    shown.show(Progress(100, 0, 100, 0.1, 0, notes=("ignored: day",)))
    for second in range(1, 26):
        now[0] = second
        waiting = "the server is full" if 12 <= second <= 15 else ""
        shown.show(Progress(100 + 10 * second, 0, 100, 0.1 + second / 100, 0, waiting))
    assert capsys.readouterr().err.splitlines() == [
        "in.csv: ignored: day",
        "going on after 100 rows",
        "200 rows, 20 %, 10 rows/s, 80 s left",
        "waiting: the server is full",
        "300 rows, 30 %, 10 rows/s, 70 s left",
    ]


def test_nothing_done_has_no_end_in_sight() -> None:
    assert plain(Progress(0, 0, 0, 0.0, 0), 0.0, None) == "0 rows, 0 %, 0 rows/s"


def test_the_summary_in_words() -> None:
    summary = Summary(
        model="m", version="1", rows=10,
        answered=8, skipped=2, resumed=4, retries=0, seconds=2.0, rows_per_second=3.0,
        target="out.csv", errors="out.csv.errors.jsonl",
    )  # fmt: skip
    assert sentence(summary) == (
        "8 rows in out.csv, 4 rows of the source done before; 2.0 s, 3 rows/s; "
        "2 skipped, see out.csv.errors.jsonl"
    )


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with _Bar("in[1].csv") as bar:
            bar.show(Progress(512, 3, 0, 0.25, 0), 100.0, 75.0)
            bar.show(Progress(512, 3, 0, 0.25, 1, "the server is full"), 100.0, 75.0)
            bar.show(Progress(1024, 3, 0, 0.5, 0), 100.0, 3725.0)
        terminal.flush()
        written = ""
        while "1:02:05 left" not in written:  # the bar is drawn piece by piece
            written += os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "in[1].csv" in written
    assert "1024 rows  100/s  3 skipped" in written
    assert "50%" in written


def test_clock_times() -> None:
    assert [_clock_of(s) for s in (0, 75, 3725)] == ["0:00", "1:15", "1:02:05"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "x.csv"), "need each other"),
        (("--from", "a.csv", "--to", "b.csv", "-i", "x=1"), "do not go with --input"),
        (("--from", "a.csv", "--to", "b.csv", "--columns", "x"), "is not INPUT=COLUMN"),
        (("--from", "a.csv", "--to", "b.txt"), "not a known format"),
        (("--from", "a.csv", "--to", "b.csv", "--connections", "0"), "at least 1"),
        (("--from", "a.csv", "--to", "b.csv"), "no server answers"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    assert main(["infer", "m", *words, "--url", "http://127.0.0.1:1"]) == 1
    assert said in capsys.readouterr().err
