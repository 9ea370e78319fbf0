"""How does a release look while it goes on, and what does a script learn of its end?

On a terminal as a picture that changes; in a pipe as a line each time something does. It asks the ledger, and
changes nothing.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from salver.cli.output import line, on_terminal, record, table

if TYPE_CHECKING:
    from salver.rollout.record import Release
    from salver.rollout.replay import Entry
    from salver.serving.release_store import ReleaseStore

COLUMNS = ("release", "model", "from", "to", "state", "stage", "traffic", "since", "reason")
#: What a script learns by the exit status of whoever watched one release; 1 and 2 are errors.
PROMOTED, ROLLED_BACK, GOES_ON, WAITS = 0, 3, 4, 5
_STATUSES: Final = {"PROMOTED": PROMOTED, "ROLLED_BACK": ROLLED_BACK, "HELD": WAITS, "PAUSED": WAITS}
#: Below so many columns a reason stands under its release, and not beside.
_NARROW: Final = 120
_LOOK_SECONDS = 1.0
_RECENT_SECONDS = 600.0
_WIDTH = 20
_STYLES = {"ROLLED_BACK": "bold red", "PROMOTED": "bold green", "HELD": "yellow", "PAUSED": "yellow"}
_Show = Callable[["ReleaseStore", "Sequence[Release]"], Awaitable[None]]


def clock(seconds: float) -> str:
    """Unix seconds, as a clock of this place has them."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def row(release: "Release") -> list[str]:
    """A release under :data:`COLUMNS`."""
    return [
        release.id,
        release.model + (f"@{release.alias}" if release.alias else ""),
        release.stable,
        release.canary,
        release.state.value,
        _stage(release),
        f"{100 * release.weight:g} %",
        clock(release.changed),
        release.waits_for or release.reason,
    ]


def plain(release: "Release") -> dict[str, Any]:
    """What programs are told of a release."""
    import msgspec

    fields = msgspec.to_builtins(release)
    del fields["evidence"], fields["policy"], fields["salt"]
    return fields  # type: ignore[no-any-return]


def show(releases: "Sequence[Release]", *, json: bool) -> None:
    """As they stand now."""
    if json:
        for release in releases:
            record(plain(release))
    elif not releases:
        line("there are no releases")
    elif on_terminal() and (console := _console()).width < _NARROW:
        for release in releases:
            console.print(*_heading(release), sep="\n")
    else:
        table(COLUMNS, [row(release) for release in releases])


def exit_status(release: "Release") -> int:
    """What a script is told of it."""
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
    """Show one release, or those of a model, or all, until none is under way.

    Args:
        seconds: After which it ends though some are; 0 = never.

    Returns:
        The exit status: of one release by its state, of several 0 when none is under way.
    """
    from salver.errors import NotReady

    end = now() + seconds if seconds else float("inf")
    found: Sequence[Release] | None = None
    with _shown(json=json) as tell:
        while True:
            try:
                found = await _found(store, release, model)
                await tell(store, found)
            except NotReady:  # its ledger is away, which ends no release
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
            for each in found:
                looks = await store.looks(each.id, after=each.progress.buckets - 2)
                parts += picture(each, looks[-1].entry if looks else None)
            live.update(Group(*parts), refresh=True)

        yield draw


def _lines(*, json: bool) -> _Show:
    """A line each time that something about a release changes."""
    told: dict[str, list[str]] = {}

    async def tell(store: "ReleaseStore", found: "Sequence[Release]") -> None:
        for each in found:
            if told.get(each.id) != row(each):
                told[each.id] = row(each)
                record(plain(each)) if json else line("  ".join(told[each.id]))
                sys.stdout.flush()  # whoever reads waits for it

    return tell


def picture(release: "Release", entry: "Entry | None") -> list[Any]:
    """What rich shows of a release: where it stands, and for each metric how far its evidence has come."""
    from rich.table import Table
    from rich.text import Text

    from salver.rollout.shadowing import told

    parts = _heading(release)
    if entry is not None and (copies := entry.verdict.copies) is not None:
        alike = bar(copies.log_alike, copies.gate, "green")
        unlike = bar(copies.log_unlike, copies.threshold, "red")
        parts.append(Text.assemble("copies are alike ", alike, "  or not ", unlike, "  ", copies.missing))
        parts.append(Text(told(copies.copies)))
    elif entry is not None:
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("metric", "effect", "evidence of harm", "evidence of none", "it lacks"):
            shown.add_column(title, overflow="fold")
        for metric in entry.verdict.metrics:
            effect = "–" if metric.effect is None else f"×{metric.effect:.2f}"
            none = Text("–") if metric.gate is None else bar(metric.log_gate, metric.gate, "green")
            shown.add_row(
                metric.name,
                effect,
                bar(metric.log_e, metric.threshold, "red"),
                none,
                metric.undecided or metric.missing,
            )
        parts.append(shown)
    return [*parts, Text()]


def _heading(release: "Release") -> list[Any]:
    from rich.text import Text

    head = Text(f"{release.model} {release.stable} → {release.canary}  ")
    head.append(release.state.value, style=_STYLES.get(release.state.value, "bold"))
    head.append("  ")
    head.append_text(bar(release.weight, 1.0, "cyan"))
    head.append(f" {100 * release.weight:g} % of the units")
    alias = f"@{release.alias}, " if release.alias else ""
    where = f"{release.id}: {alias}stage {_stage(release)}, since {clock(release.changed)}"
    return [head, Text(where, style="dim"), Text(release.waits_for or release.reason)]


def _stage(release: "Release") -> str:
    stages = len(release.policy.stages)
    return f"{min(release.stage + 1, stages)} of {stages}"


def bar(value: float, most: float, style: str) -> Any:
    """How much of the most there is; below nothing there is nothing."""
    from rich.text import Text

    full = round(_WIDTH * min(max(value / most, 0.0), 1.0)) if most > 0 else _WIDTH
    return Text.assemble(("━" * full, style), ("─" * (_WIDTH - full), "dim"))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


async def _found(store: "ReleaseStore", release: str, model: str) -> "list[Release]":
    if release:
        return [await store.get(release)]
    since = time.time() - _RECENT_SECONDS
    return [each for each in await store.listed(model) if each.ended is None or each.ended > since]
