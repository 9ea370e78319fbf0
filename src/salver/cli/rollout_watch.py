"""How does a release look while it goes on?

On a terminal as a picture that changes; in a pipe as a line each time something does. It asks the ledger, and
changes nothing.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from salver.cli.output import line, on_terminal

if TYPE_CHECKING:
    from salver.rollout.record import Release
    from salver.rollout.replay import Entry
    from salver.serving.release_store import ReleaseStore

COLUMNS = ("release", "model", "from", "to", "state", "stage", "traffic", "since", "reason")
_LOOK_SECONDS = 1.0
_RECENT_SECONDS = 600.0
_WIDTH = 20
_STYLES = {"ROLLED_BACK": "bold red", "PROMOTED": "bold green", "HELD": "yellow", "PAUSED": "yellow"}


def clock(seconds: float) -> str:
    """Unix seconds, as a clock of this place has them."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def row(release: "Release") -> list[str]:
    """A release under :data:`COLUMNS`."""
    stages = len(release.policy.stages)
    return [
        release.id,
        release.model + (f"@{release.alias}" if release.alias else ""),
        release.stable,
        release.canary,
        release.state.value,
        f"{min(release.stage + 1, stages)} of {stages}",
        f"{100 * release.weight:g} %",
        clock(release.changed),
        release.progress.waits_for or release.reason,
    ]


async def watched(store: "ReleaseStore", release: str, model: str) -> int:
    """Show one release, or those of a model, or all, until none is under way."""
    if not on_terminal():
        return await _as_lines(store, release, model)
    from rich.console import Console, Group
    from rich.live import Live

    with Live(console=Console(), refresh_per_second=4) as live:
        while True:
            found = await _found(store, release, model)
            parts: list[Any] = []
            for each in found:
                looks = await store.looks(each.id, after=each.progress.buckets - 2)
                parts += picture(each, looks[-1].entry if looks else None)
            live.update(Group(*parts), refresh=True)
            if not any(each.is_live for each in found):
                return 0
            await asyncio.sleep(_LOOK_SECONDS)


def picture(release: "Release", entry: "Entry | None") -> list[Any]:
    """What rich shows of a release: where it stands, and for each metric how far its evidence has come."""
    from rich.table import Table
    from rich.text import Text

    head = Text(f"{release.model} {release.stable} → {release.canary}  ")
    head.append(release.state.value, style=_STYLES.get(release.state.value, "bold"))
    head.append("  ")
    head.append_text(bar(release.weight, 1.0, "cyan"))
    head.append(f" {100 * release.weight:g} % of the units")
    parts: list[Any] = [head, Text(release.progress.waits_for or release.reason, style="dim")]
    if entry is not None:
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("metric", "effect", "evidence of harm", "evidence of none", "it lacks"):
            shown.add_column(title, overflow="fold")
        for metric in entry.verdict.metrics:
            effect = "–" if metric.effect is None else f"×{metric.effect:.2f}"
            none = Text("–") if metric.gate is None else bar(metric.log_gate, metric.gate, "green")
            shown.add_row(
                metric.name, effect, bar(metric.log_e, metric.threshold, "red"), none, metric.missing
            )
        parts.append(shown)
    return [*parts, Text()]


def bar(value: float, most: float, style: str) -> Any:
    """How much of the most there is; below nothing there is nothing."""
    from rich.text import Text

    full = round(_WIDTH * min(max(value / most, 0.0), 1.0)) if most > 0 else _WIDTH
    return Text.assemble(("━" * full, style), ("─" * (_WIDTH - full), "dim"))


async def _as_lines(store: "ReleaseStore", release: str, model: str) -> int:
    told: dict[str, list[str]] = {}
    while True:
        found = await _found(store, release, model)
        for each in found:
            if told.get(each.id) != row(each):
                told[each.id] = row(each)
                line("  ".join(told[each.id]))
        if not any(each.is_live for each in found):
            return 0
        await asyncio.sleep(_LOOK_SECONDS)


async def _found(store: "ReleaseStore", release: str, model: str) -> "list[Release]":
    if release:
        return [await store.get(release)]
    since = time.time() - _RECENT_SECONDS
    return [each for each in await store.listed(model) if each.ended is None or each.ended > since]
