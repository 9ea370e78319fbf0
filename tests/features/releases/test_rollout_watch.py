"""What a terminal shows of a release, and what a pipe gets of one that goes on."""

import io
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from rich.console import Console

from salver.features.releases import command_watch as rollout_watch
from salver.features.releases.experiments.windows import CountedBy, CountingServer
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import Entry
from salver.features.releases.judge.shadowing import Alike, CopyEvidence, verdict
from salver.terminal import output
from salver.words.errors import NotReady
from salver.words.releases import Bucket, Copies, Counts, ReleaseState

POLICY = Policy(
    stages=(Stage(0.1, 10), Stage(0.5, 10)),
    metrics=(
        Metric("errors", "errors", "severe", negligible=0.001),
        Metric("latency_p99", "latency", "soft", quantile=0.99, promotion_margin=None),
    ),
)


SERVERS = (CountedBy("a", 1.0, is_heard=True), CountedBy("b", 40.0, is_heard=False))


def release(**fields: Any) -> Release:
    new = proposed("r1", "fraud", ("7", "8"), POLICY, 1_000.0, alias="champion")
    return msgspec.structs.replace(new, **fields)


def running() -> Release:
    return release(state=ReleaseState.RUNNING, weight=0.1, reason="its first stage begins")


def look(errors: int) -> Entry:
    now = running()
    counts = Counts(100, 100, 800)
    evidence = now.evidence
    for begin in range(960, 1140, 60):  # three blocks
        bucket = Bucket(float(begin), 60.0, 0, 0.1, counts, counts, {"errors": Counts(errors)}, {})
        evidence, verdict = judge(POLICY, evidence, bucket, now.state)
    return Entry(bucket, now.state, verdict)


def shown(of: Release, entry: Entry | None, width: int = 150) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in rollout_watch.picture(of, entry, SERVERS):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_release_of_copies_alone_shows_how_alike_they_are() -> None:
    entry = look(errors=0)
    seen = verdict(CopyEvidence().add(Copies(300, 2, 1, 40), Alike()), Alike(), 0.01, 0.05)
    copies = msgspec.structs.replace(entry, verdict=msgspec.structs.replace(entry.verdict, copies=seen))
    text = shown(running(), copies)
    assert "copies are alike ─" in text and "99% of the copies are alike" in text
    assert "of 300 copies 2 differ and 1 failed; 40 took the canary longer" in text
    assert "errors" not in text


def test_a_release_under_way_shows_its_share_and_a_line_a_metric() -> None:
    text = shown(running(), look(errors=9))
    assert "fraud 7 → 8  RUNNING" in text and "10 % of the units" in text
    assert "its first stage begins" in text
    errors, latency = (
        next(line for line in text.splitlines() if line.startswith(m.name)) for m in POLICY.metrics
    )
    assert "━" in errors and "evidence" in errors
    assert "━" not in latency and "–" in latency


def test_it_is_told_who_counts_and_who_does_not_any_more() -> None:
    assert "counted by 1 server; 1 silent, for 40 s" in shown(running(), None)


@pytest.mark.parametrize(
    ("silent", "heard", "words"),
    [
        ((), 2, "counted by 2 servers"),
        ((40.0, 900.0), 1, "counted by 1 server; 2 silent, for 40 s or more"),
        ((9000.0,), 1, "counted by 1 server"),  # long ago
        ((18_000.0,), 0, "counted by no server; 1 silent, for 5.0 h"),
        ((), 0, "counted by no server"),
    ],
)
def test_of_servers_it_is_told_how_many_and_how_long_they_are_silent(
    silent: tuple[float, ...], heard: int, words: str
) -> None:
    servers = [CountedBy("a", 1.0, is_heard=True)] * heard
    servers += [CountedBy("b", seconds, is_heard=False) for seconds in silent]
    assert rollout_watch.counted(servers) == words


def test_a_line_a_metric_fits_a_terminal_of_80_columns() -> None:
    text = shown(running(), look(errors=9), width=80)
    (errors,) = (line for line in text.splitlines() if line.startswith("errors"))
    assert len(re.findall("[━─]+", errors)) == 2  # both bars, and each is whole
    assert sum("━" in line or "─" in line for line in text.splitlines()) == 3


def test_of_a_release_that_is_over_nothing_lacks() -> None:
    assert "margin" in shown(running(), look(errors=0))
    assert "margin" not in shown(release(state=ReleaseState.ROLLED_BACK, ended=2_000.0), look(errors=0))


def test_it_is_told_until_when_it_is_held_or_compared() -> None:
    entry = look(errors=0)
    held = msgspec.structs.replace(entry, verdict=msgspec.structs.replace(entry.verdict, held_since=0.0))
    words = "its hold ends at 1970-01-02 00:00:00Z"
    assert list(rollout_watch.until(release(state=ReleaseState.HELD), held)) == [words]
    assert list(rollout_watch.until(running(), held)) == list(rollout_watch.until(running(), None)) == []
    progress = msgspec.structs.replace(release().progress, watched_until=86_400.0)
    over = release(state=ReleaseState.PROMOTED, ended=1.0, progress=progress)
    words = "it is still compared until 1970-01-02 00:00:00Z"
    assert list(rollout_watch.until(over, entry)) == [words]


def test_it_is_told_how_often_the_judge_has_paused_it_and_when_it_is_tried_again() -> None:
    progress = msgspec.structs.replace(release().progress, pauses=2, resumes_at=86_400.0)
    words = ["paused by the judge 2 times", "the canary gets traffic again at 1970-01-02 00:00:00Z"]
    off = release(state=ReleaseState.PAUSED, progress=progress, weight=0.0)
    assert list(rollout_watch.until(off, None)) == words
    assert all(each in shown(off, None) for each in words)
    assert (rollout_watch.exit_status(off), rollout_watch.exit_status(running())) == (4, 4)
    person = msgspec.structs.replace(progress, resumes_at=None)
    assert rollout_watch.exit_status(msgspec.structs.replace(off, progress=person)) == 5
    on = release(state=ReleaseState.RUNNING, progress=msgspec.structs.replace(progress, pauses=1))
    assert list(rollout_watch.until(on, None)) == ["paused by the judge 1 time"]


def test_a_proposal_shows_what_it_waits_for() -> None:
    assert "no server that serves this registry has taken it up yet" in shown(release(), None)
    waiting = release(progress=msgspec.structs.replace(release().progress, waits_for="version 8 is LOADING"))
    text = shown(waiting, None)
    assert "PROPOSED" in text and "version 8 is LOADING" in text and "metric" not in text


@pytest.mark.parametrize(
    ("value", "most", "full"),
    [(0.0, 1.0, 0), (0.5, 1.0, 8), (1.0, 1.0, 16), (7.0, 1.0, 16), (-3.0, 1.0, 0), (0.0, 0.0, 16)],
)
def test_a_bar_is_as_long_as_its_part(value: float, most: float, full: int) -> None:
    assert rollout_watch.bar(value, most, "red").plain == "━" * full + "─" * (16 - full)


def test_a_row_has_a_cell_a_column() -> None:
    cells = rollout_watch.row(running(), SERVERS)
    assert len(cells) == len(rollout_watch.COLUMNS)
    assert cells[:8] == ["r1", "fraud@champion", "7", "8", "RUNNING", "1 of 2", "10 %", "1 of 2"]
    assert cells[8] == "1970-01-01 00:16:40Z"  # as all commands tell times
    done = release(state=ReleaseState.PROMOTED, stage=2, weight=1.0)
    assert rollout_watch.row(done, None)[5:7] == ["2 of 2", "100 %"]


class Story:
    """A store that tells the next chapter each time."""

    def __init__(self, *chapters: list[Release] | NotReady) -> None:
        self.chapters = list(chapters)
        self.asked: list[str] = []

    async def get(self, name: str) -> Release:
        self.asked.append(name)
        chapter = self.chapters.pop(0)
        if isinstance(chapter, NotReady):
            raise chapter
        return chapter[0]

    async def listed(self, model: str) -> list[Release]:
        self.asked.append(model)
        chapter = self.chapters.pop(0)
        assert isinstance(chapter, list)
        return chapter

    async def looks(self, name: str, after: int) -> list[Any]:
        return []

    async def witnesses(self, releases: Sequence[str]) -> dict[str, tuple[CountingServer, ...]]:
        """Two servers, of which one died long ago."""
        told = (CountingServer("a", time.time()), CountingServer("b", time.time() - 100.0))
        return dict.fromkeys(releases, told)


async def test_a_pipe_gets_a_line_each_time_that_something_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_watch, "_LOOK_SECONDS", 0.0)
    over = release(state=ReleaseState.ROLLED_BACK, ended=2_000.0, reason="errors: so many")
    story = Story([release()], [release()], [running()], [running()], [over])
    assert await rollout_watch.watched(story, "r1", "") == 3  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[4] for line in lines] == ["PROPOSED", "RUNNING", "ROLLED_BACK"]
    assert lines[-1].endswith("errors: so many")
    assert story.asked == ["r1"] * 5


async def test_a_program_gets_an_object_each_time_that_something_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_watch, "_LOOK_SECONDS", 0.0)
    over = release(state=ReleaseState.PROMOTED, ended=2_000.0)
    story = Story([release()], [release()], [running()], [over])
    assert await rollout_watch.watched(story, "r1", "", json=True) == 0  # type: ignore[arg-type]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["state"] for one in told] == ["PROPOSED", "RUNNING", "PROMOTED"]
    assert "policy" not in told[0]
    assert told[0]["servers"] == told[2]["servers"] == []  # it has not begun, and is over
    assert [(one["server"], one["is_heard"]) for one in told[1]["servers"]] == [("a", True), ("b", False)]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (ReleaseState.PROPOSED, 4),
        (ReleaseState.RUNNING, 4),
        (ReleaseState.HELD, 5),
        (ReleaseState.PAUSED, 5),
        (ReleaseState.PROMOTED, 0),
        (ReleaseState.ROLLED_BACK, 3),
    ],
)
async def test_a_script_learns_by_the_exit_status_how_it_stands(
    monkeypatch: pytest.MonkeyPatch, state: ReleaseState, status: int
) -> None:
    now = iter([0.0, 9.0, 11.0]).__next__
    monkeypatch.setattr(rollout_watch, "_LOOK_SECONDS", 0.0)
    ended = 2_000.0 if state in (ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK) else None
    story = Story(*[[release(state=state, ended=ended)]] * 2)
    told = await rollout_watch.watched(story, "r1", "", seconds=10, now=now)  # type: ignore[arg-type]
    assert told == status


async def test_who_waits_goes_on_when_the_ledger_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_watch, "_LOOK_SECONDS", 0.0)
    over = release(state=ReleaseState.PROMOTED, ended=2_000.0)
    away = NotReady("the ledger does not answer")
    story = Story([running()], away, away, [over])
    assert await rollout_watch.watched(story, "r1", "") == 0  # type: ignore[arg-type]
    with pytest.raises(NotReady):
        await rollout_watch.watched(Story(away), "r1", "")  # type: ignore[arg-type]


async def test_of_several_it_learns_whether_any_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    over = release(state=ReleaseState.ROLLED_BACK, ended=9e9)
    assert await rollout_watch.watched(Story([over, running()]), "", "fraud", seconds=-1) == 4  # type: ignore[arg-type]
    assert await rollout_watch.watched(Story([over]), "", "fraud") == 0  # type: ignore[arg-type]


async def test_where_there_is_none_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert await rollout_watch.watched(Story([]), "", "fraud") == 0  # type: ignore[arg-type]
    assert "no release is under way" in capsys.readouterr().out
    assert await rollout_watch.watched(Story([]), "", "fraud", json=True) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [80, 139, 140, 200])
async def test_releases_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """On a narrow one the reason stands below; no state and no id is broken in two."""
    for module in (rollout_watch, output):
        monkeypatch.setattr(module, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    long = "errors: the canary has 2.57 times its control's rate, which is more than is enough for that"
    over = release(id="25a65d57c77fd484", state=ReleaseState.ROLLED_BACK, ended=1.0, reason=long)
    await rollout_watch.show(Story(), [over], json=False)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for whole in ("25a65d57c77fd484", "ROLLED_BACK", "1 of 2"):
        assert any(whole in line for line in lines)
    assert " ".join(long.split()[:2]) in " ".join(lines)


async def test_of_a_model_those_are_shown_that_go_on_or_ended_lately(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_watch.time, "time", lambda: 10_000.0)
    old = release(id="old", state=ReleaseState.PROMOTED, ended=1_000.0)
    new = release(id="new", state=ReleaseState.PROMOTED, ended=9_900.0)
    assert await rollout_watch.watched(Story([old, new]), "", "fraud") == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "new" in out and "old" not in out


async def test_a_terminal_gets_a_picture_until_it_is_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_watch, "on_terminal", lambda: True)
    monkeypatch.setattr(rollout_watch, "_LOOK_SECONDS", 0.0)
    over = release(state=ReleaseState.PROMOTED, ended=2_000.0, weight=1.0, reason="every gate is passed")
    assert await rollout_watch.watched(Story([running()], [over]), "r1", "") == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "PROMOTED" in out and "every gate is passed" in out
