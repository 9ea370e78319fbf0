"""Live view of releases in the terminal, and the exit status of a watched release.

On a terminal it is a picture that updates; in a pipe a line per change. It reads the ledger and changes
nothing.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from salver.terminal.output import line, moment, on_terminal, record, result, table

if TYPE_CHECKING:
    from salver.features.releases.experiments.windows import CountedBy
    from salver.features.releases.judge.record import Release
    from salver.features.releases.judge.replay import Entry
    from salver.features.releases.release_store import ReleaseStore

COLUMNS = ("release", "model", "from", "to", "state", "stage", "traffic", "servers", "since", "reason")
#: Exit status by the final state of a single watched release; 1 and 2 are errors.
PROMOTED, ROLLED_BACK, GOES_ON, WAITS = 0, 3, 4, 5
_STATUSES: Final = {"PROMOTED": PROMOTED, "ROLLED_BACK": ROLLED_BACK, "HELD": WAITS, "PAUSED": WAITS}
#: Terminal width below which a reason is shown under its release instead of beside it.
_NARROW: Final = 140
_LOOK_SECONDS = 1.0
_RECENT_SECONDS = 600.0
#: A server silent for longer is not shown if others are heard.
_MISSED_SECONDS: Final = 3600.0
_SOON_SECONDS: Final = 120.0  # states with a time limit
_WIDTH = 16  # width of a bar in characters
_STYLES = {"ROLLED_BACK": "bold red", "PROMOTED": "bold green", "HELD": "yellow", "PAUSED": "yellow"}
_Show = Callable[["ReleaseStore", "Sequence[Release]"], Awaitable[None]]
_Servers = Mapping[str, "Sequence[CountedBy]"]


async def servers_of(store: "ReleaseStore", releases: "Sequence[Release]") -> _Servers:
    """Return the servers that count each release that has started and is still counted."""
    from salver.features.releases.experiments.windows import counted_by

    counted = [each for each in releases if each.is_judged and each.state.value != "PROPOSED"]
    told, now = await store.witnesses([each.id for each in counted]), time.time()
    return {each.id: counted_by(told[each.id], now, each.bucket_seconds) for each in counted}


def counted(servers: "Sequence[CountedBy]") -> str:
    """Return which servers count a release, as text."""
    from salver.features.releases.judge.outlook import spoken

    heard = sum(each.is_heard for each in servers)
    text = f"counted by {heard or 'no'} server{'s' * (heard > 1)}"
    silent = [each.silent_seconds for each in servers if not each.is_heard]
    missed = [seconds for seconds in silent if not heard or seconds < _MISSED_SECONDS]
    if not missed:
        return text
    least = min(missed)
    since = f"{least:.0f} s" if least < _SOON_SECONDS else spoken(least / 60)
    return f"{text}; {len(missed)} silent, for {since}{' or more' * (len(missed) > 1)}"


def _heard(servers: "Sequence[CountedBy] | None") -> str:
    """Return how many of the servers are heard, for a table."""
    if servers is None:
        return "–"
    heard = sum(each.is_heard for each in servers)
    if heard == len(servers):
        return str(heard)
    return f"{heard} of {len(servers)}"


def row(release: "Release", servers: "Sequence[CountedBy] | None") -> list[str]:
    """Return a release as a row under :data:`COLUMNS`."""
    return [
        release.id,
        release.model + (release.alias and f"@{release.alias}"),
        release.stable,
        release.canary,
        release.state.value,
        _stage(release),
        f"{100 * release.weight:g} %",
        _heard(servers),
        moment(release.changed),
        release.waits_for or release.reason,
    ]


def plain(release: "Release", servers: "Sequence[CountedBy] | None") -> dict[str, Any]:
    """Return a release as JSON values."""
    import msgspec

    fields = msgspec.to_builtins(release)
    del fields["evidence"], fields["policy"], fields["salt"]
    return {**fields, "servers": servers or ()}


async def show(store: "ReleaseStore", releases: "Sequence[Release]", *, json: bool) -> None:
    """Print the current state of releases."""
    servers = await servers_of(store, releases)
    if json:
        for release in releases:
            record(plain(release, servers.get(release.id)))
    elif not releases:
        line("there are no releases")
    elif on_terminal() and (console := _console()).width < _NARROW:
        for release in releases:
            console.print(*_heading(release, servers.get(release.id)), sep="\n")
    else:
        table(COLUMNS, [row(release, servers.get(release.id)) for release in releases])


def until(release: "Release", entry: "Entry | None") -> Iterator[str]:
    """Return until when a release keeps its state, if nothing else happens."""
    if release.watched_until is not None:
        yield f"it is still compared until {moment(release.watched_until)}"
    if release.state.value == "HELD" and entry is not None and entry.verdict.held_since is not None:
        yield f"its hold ends at {moment(entry.verdict.held_since + 60 * release.policy.hold_minutes)}"
    yield from paused(release)


def paused(release: "Release") -> Iterator[str]:
    """Return how often the judge has paused a release, and when it is tried again."""
    if count := release.progress.pauses:
        yield f"paused by the judge {count} time{'s' * (count > 1)}"
    if release.resumes_at is not None:
        yield f"the canary gets traffic again at {moment(release.resumes_at)}"


def exit_status(release: "Release") -> int:
    """Return the exit status for a release."""
    if release.resumes_at is not None:
        return GOES_ON
    return _STATUSES.get(release.state.value, GOES_ON)


async def watched(
    store: "ReleaseStore",
    release: str,
    model: str,
    *,
    seconds: float = 0.0,
    json: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Show one release, or those of a model, or all, until none is active.

    Args:
        seconds: Time limit; 0 = none.

    Returns:
        Exit status: for one release by its state, for several 0 when none is active.
    """
    from salver.words.errors import NotReady

    end = now() + seconds if seconds else float("inf")
    found: Sequence[Release] | None = None
    with _shown(json=json) as tell:
        while True:
            try:
                found = await _found(store, release, model)
                await tell(store, found)
            except NotReady:  # the ledger is unavailable, which does not end a release
                if found is None:
                    raise
            goes_on = any(each.is_live for each in found)
            if not goes_on or now() >= end:
                break
            await asyncio.sleep(_LOOK_SECONDS)
    if not found and not json:
        line("no release is under way, and none has ended lately")
    if release:
        return exit_status(found[0])
    return GOES_ON if goes_on else 0


@contextmanager
def _shown(*, json: bool) -> Iterator[_Show]:
    if json or not on_terminal():
        yield _lines(json=json)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=_console(), refresh_per_second=4) as live:

        async def draw(store: "ReleaseStore", found: "Sequence[Release]") -> None:
            parts: list[Any] = []
            servers = await servers_of(store, found)
            for each in found:
                looks = await store.looks(each.id, after=each.progress.buckets - 2)
                parts += picture(each, looks[-1].entry if looks else None, servers.get(each.id))
            live.update(Group(*parts), refresh=True)

        yield draw


def _lines(*, json: bool) -> _Show:
    """Print a line whenever a release changes."""
    told: dict[str, list[str]] = {}

    async def tell(store: "ReleaseStore", found: "Sequence[Release]") -> None:
        servers = await servers_of(store, found)
        for each in found:
            its = servers.get(each.id)
            if told.get(each.id) != row(each, its):
                told[each.id] = row(each, its)
                result(plain(each, its), "  ".join(told[each.id]), json=json)
                sys.stdout.flush()  # a reader waits for it

    return tell


def picture(release: "Release", entry: "Entry | None", servers: "Sequence[CountedBy] | None") -> list[Any]:
    """Return the picture of a release: its stage, and the evidence for each metric."""
    from rich.table import Table
    from rich.text import Text

    from salver.features.releases.judge.shadowing import told

    parts = _heading(release, servers)
    if entry is not None and (copies := entry.verdict.copies) is not None:
        alike = bar(copies.log_alike, copies.gate, "green")
        unlike = bar(copies.log_unlike, copies.threshold, "red")
        parts.append(Text.assemble("copies are alike ", alike, "  or not ", unlike, "  ", copies.missing))
        parts.append(Text(told(copies.copies)))
    elif entry is not None:
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("metric", "effect", "evidence of harm", "evidence of none", "it lacks"):
            shown.add_column(title, overflow="fold", no_wrap=title.startswith("ev"))
        for metric in entry.verdict.metrics:
            effect = "–"
            if metric.effect is not None:
                effect = f"×{metric.effect:.2f}"
            none = Text("–") if metric.gate is None else bar(metric.log_gate, metric.gate, "green")
            shown.add_row(
                metric.name,
                effect,
                bar(metric.log_e, metric.threshold, "red"),
                none,
                (metric.undecided or metric.missing) if release.is_judged else "",
            )
        parts.append(shown)
    return [*parts, Text()]


def _heading(release: "Release", servers: "Sequence[CountedBy] | None") -> list[Any]:
    from rich.text import Text

    head = Text(f"{release.model} {release.stable} → {release.canary}  ")
    head.append(release.state.value, style=_STYLES.get(release.state.value, "bold"))
    head.append("  ")
    head.append_text(bar(release.weight, 1.0, "cyan"))
    head.append(f" {100 * release.weight:g} % of the units")
    alias = release.alias and f"@{release.alias}, "
    where = f"{release.id}: {alias}stage {_stage(release)}, since {moment(release.changed)}"
    parts = [head, Text(where, style="dim"), Text(release.waits_for or release.reason)]
    parts += [Text(words, style="yellow") for words in paused(release)]
    if servers is not None:
        is_well = servers and all(each.is_heard for each in servers)
        parts.append(Text(counted(servers), style="dim" if is_well else "yellow"))
    return parts


def _stage(release: "Release") -> str:
    stages = len(release.policy.stages)
    return f"{min(release.stage + 1, stages)} of {stages}"


def bar(value: float, most: float, style: str) -> Any:
    """Return a bar for a fraction of the maximum; empty below zero."""
    from rich.text import Text

    full = _WIDTH
    if most > 0:
        full = round(_WIDTH * min(max(value / most, 0.0), 1.0))
    return Text.assemble(("━" * full, style), ("─" * (_WIDTH - full), "dim"))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


async def _found(store: "ReleaseStore", release: str, model: str) -> "list[Release]":
    if release:
        return [await store.get(release)]
    since = time.time() - _RECENT_SECONDS
    return [each for each in await store.listed(model) if each.ended is None or each.ended > since]
