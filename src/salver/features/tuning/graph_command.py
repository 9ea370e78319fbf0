"""``salver tune`` for a pipeline: settings of its steps for one objective of the whole."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from salver.features.tuning.graph_bench import CALLERS, GraphBench, knobs_of, plan_of
from salver.features.tuning.graph_search import GraphMeasurement, GraphSearch
from salver.machine import usable_cores
from salver.terminal.output import line, record, remark, table
from salver.words.errors import ModelFailed, SalverError

if TYPE_CHECKING:
    from salver.features.pipelines.running import Running
    from salver.features.tuning.graph_search import Settings
    from salver.kernel.serving.servable import Servable
    from salver.words.artifacts import Manifest


def tune_graph(manifest: "Manifest", seconds: float, *, trust_pickle: bool, json: bool) -> int:
    """Measure a pipeline with other settings of its steps, and show those that meet its objective best."""
    search = asyncio.run(_search(manifest, seconds, trust_pickle=trust_pickle, quiet=json))
    first, best = search.measured[0], search.best
    assert best is not None, "the settings of the file were measured"
    changed = {
        name: toml for name, how in best.settings.items() if (toml := _toml(how, first.settings[name]))
    }
    if json:
        record(
            {
                "model": manifest.id.name,
                "measured": msgspec.to_builtins(search.measured),
                "refused": msgspec.to_builtins(search.refused),
                "best": msgspec.to_builtins(best),
                "meets": search.meets(best),
                "changes": changed,
            }
        )
        return 0
    line()
    table(("requests/s", "p99 ms", "settings"), [_cells(found, first) for found in search.measured])
    line()
    if not search.meets(best):
        remark("no setting that was tried meets the objective; this one is the nearest")
    if not changed:
        line("the settings of the file are as good as any that was tried")
        return 0
    line(f"{best.rate:.0f} requests/s, p99 {best.p99_s * 1e3:.1f} ms. In pipeline.toml:")
    for name, toml in changed.items():
        line(f"\n[steps.{name}]")
        line("\n".join(toml))
    return 0


async def _search(manifest: "Manifest", seconds: float, *, trust_pickle: bool, quiet: bool) -> GraphSearch:
    cores = usable_cores()
    bench = GraphBench(manifest, cores, trust_pickle=trust_pickle, seconds=min(1.0, seconds / 20))
    until = time.monotonic() + seconds
    best = await bench.opened({})
    try:
        settings, knobs = knobs_of(plan_of(best), cores)
        search = GraphSearch(settings, knobs, manifest.config.objective)
        if not quiet:
            about = f"{len(knobs)} settings of {len(settings)} steps, asked by {CALLERS} callers"
            line(f"{manifest.id.name}: {about}")
        try:
            (first,) = await bench.measure(best, best)
        except SalverError as error:
            raise ModelFailed(
                f"pipeline '{manifest.id.name}' does not answer a row of zeros: {error}",
                fix="Put a request that it takes (Open Inference JSON) beside pipeline.toml, and name it in "
                'salver.toml: warmup.file = "request.json"',
            ) from error
        first = msgspec.structs.replace(first, settings=settings)
        search.tell(first, first)
        while (wish := search.ask()) is not None and time.monotonic() < until:
            best = await _try(search, bench, best, wish)
    finally:
        await best.close()
    return search


async def _try(search: GraphSearch, bench: GraphBench, best: "Servable", wish: "Settings") -> "Servable":
    """Measure settings beside the best ones; return the pipeline with the best, the other being closed."""
    try:
        other = await bench.opened(wish)
    except SalverError:
        search.refuse(wish)
        return best
    try:
        beside, found = await bench.measure(best, other)
    except SalverError:
        search.refuse(wish)
        await other.close()
        return best
    before = search.best
    search.tell(msgspec.structs.replace(found, settings=dict(wish)), beside)
    if search.best is before:
        await other.close()
        return best
    await best.close()
    return other


def _cells(found: GraphMeasurement, first: GraphMeasurement) -> tuple[str, str, str]:
    told = [
        f"{name}: {', '.join(toml)}"
        for name, how in found.settings.items()
        if (toml := _toml(how, first.settings[name]))
    ]
    return f"{found.rate:.0f}", f"{found.p99_s * 1e3:.1f}", "; ".join(told) or "as the file says"


def _toml(how: "Running", before: "Running") -> list[str]:
    """Return the lines of ``pipeline.toml`` that differ."""
    own: dict[str, Any] = msgspec.to_builtins(how)
    old: dict[str, Any] = msgspec.to_builtins(before)
    return [
        f"{key} = {msgspec.json.encode(value).decode()}" for key, value in own.items() if value != old[key]
    ]
