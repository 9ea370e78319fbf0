"""``salver pipelines``: show, digest and lock a ``pipeline.toml``, and tell what a server knows of it."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import App, Parameter
from msgspec import to_builtins
from msgspec.json import decode as loads

from salver.encoding.escaping import printable
from salver.terminal.options import DEFAULT_URL, Json, Url, Version, token
from salver.terminal.output import line, record, remark, result, table

pipelines = App(
    name="pipelines",
    help="Pipelines of steps and models in a pipeline.toml.",
    default_parameter=Parameter(negative=()),
)


@pipelines.command
def show(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Check a pipeline and draw its graph: the steps from the top down, with the edges that each reads.

    Models beside the file are loaded to know their types; those of the server are taken from beside the
    folder, and their types are not known if they are not there.

    Args:
        path: A folder with a pipeline.toml.
    """
    # Imported here because backends would slow down --help.
    from salver.features.pipelines.local import fingerprint_of_plan, plan_of
    from salver.features.pipelines.locking import read_lock
    from salver.features.pipelines.showing import described, drawn

    plan, unknown = plan_of(path, trust_pickle=trust_pickle)
    found = ""
    if not unknown:
        found = fingerprint_of_plan(path, plan).digest
    locked = read_lock(path)
    if json:
        record({**described(plan), "digest": found, "locked": locked.digest if locked else ""})
        return 0
    for text in drawn(plan):
        line(text)
    if unknown:
        remark(f"not checked, because they are models of the server: {', '.join(unknown)}")
    elif locked is None:
        line(f"digest {found}")
    elif locked.digest == found:
        line(f"digest {found}, as locked")
    else:
        line(f"digest {found}")
        remark(f"pipeline.lock is of another, {locked.digest}: it is refused where it is loaded")
    return 0


@pipelines.command
def digest(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Print the digest of all that decides a pipeline's answers.

    That is the graph with the options of its steps, the files that they name, the models, and the versions of
    libraries.

    Args:
        path: A folder with a pipeline.toml.
    """
    from salver.features.pipelines.local import fingerprint_in

    found = fingerprint_in(path, trust_pickle=trust_pickle)
    result({"digest": found.digest, **to_builtins(found)}, found.digest, json=json)
    return 0


@pipelines.command
def lock(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Write pipeline.lock beside a pipeline.toml; from then on, loading it tells what has changed.

    Args:
        path: A folder with a pipeline.toml.
    """
    from salver.features.pipelines.local import fingerprint_in
    from salver.features.pipelines.locking import write_lock
    from salver.features.pipelines.locks import LOCK

    found = write_lock(path, fingerprint_in(path, trust_pickle=trust_pickle))
    place = str(path / LOCK)
    result({"digest": found.digest, "file": place}, f"{place}: {found.digest}", json=json)
    return 0


@pipelines.command
def stats(
    model: str,
    /,
    *,
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> int:
    """Show the steps of a pipeline on a running server with their times, and the values at its edges.

    Statistics of edges need `[statistics] sample = 0.01` in pipeline.toml, and a comparison with the training
    data those that were recorded by `pipeline.lock(inputs)`.

    Args:
        model: Name of the pipeline.
    """
    found = asyncio.run(_ask(url, model, model_version))
    if json:
        record(found)
        return 0
    line(f"{printable(model)}:{printable(found['version'])}, {found['requests']} requests")
    if found["digest"]:
        line(f"locked: {found['digest']}")
    line()
    table(_STEP_COLUMNS, [_step_cells(step) for step in found["steps"]])
    seen = [edge for edge in found["edges"] if edge["values"]]
    if seen:
        line()
        table(_EDGE_COLUMNS, [_edge_cells(edge) for edge in seen])
        if any(edge["is_notable"] for edge in seen):
            remark(f"*: unlike the training data (PSI {found['psi_limit']} or more, or other missing values)")
    return 0


async def _ask(url: str, model: str, version: str) -> Any:
    from salver.client import Client

    query = f"?version={quote(version, safe='')}" if version else ""
    async with Client(url, token=token()) as client:
        return loads(await client.api("GET", f"/models/{quote(model, safe='')}/pipeline{query}"))


_STEP_COLUMNS: Final = ("step", "runs", "ms", "waiting", "running", "failed", "stood in", "cached")
_EDGE_COLUMNS: Final = ("edge", "requests", "missing", "mean", "sd", "least", "most", "psi")


def _step_cells(step: dict[str, Any]) -> tuple[str, ...]:
    times = (f"{step[key] * 1e3:.3f}" for key in ("seconds", "queue_seconds", "run_seconds"))
    cached = ""
    if step["cache_lookups"]:
        cached = f"{step['cache_hits']} of {step['cache_lookups']}"
    counts = (str(step["failures"]), str(step["stood_in"]), cached)
    return (printable(step["name"]), str(step["runs"]), *times, *counts)


def _edge_cells(edge: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{edge[key]:.4g}" for key in ("mean", "sd", "least", "most"))
    psi = "" if edge["psi"] is None else f"{edge['psi']:.2f}"
    mark = "*" if edge["is_notable"] else ""
    name = printable(edge["name"])
    return (name, str(edge["requests"]), f"{edge['nulls']:.1%}", *numbers, psi + mark)
