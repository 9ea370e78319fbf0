"""``salver placement``: where models and their replicas run, and why."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from cyclopts import App, Parameter

from salver.features.cluster.placement.policy import place
from salver.features.cluster.placement.records import Step
from salver.features.cluster.placement.snapshot import levels, read
from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, record, table
from salver.words.errors import InvalidInput
from salver.words.sizes import told_bytes

_COLUMNS: Final = ("step", "replica", "node", "from", "memory", "why")

placement = App(name="placement", help="Show where models and their replicas run, and why.")


@placement.command
def explain(
    what: str,
    *,
    model: Annotated[str, Parameter(help="Explain each replica of this model instead.")] = "",
    without: Annotated[str, Parameter(help="Node, zone or region that is lost first.")] = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show where a model of a running server runs, and why; or what a cluster in a file would do next.

    Of a server: which nodes, what was against the others, processes and batches. Needs the right to read.
    Set SALVER_TOKEN to the key. Of a file: the steps that bring the cluster to what is wanted.

    Args:
        what: Name of a model, or snapshot of a cluster: a file NAME.json with nodes, wanted and replicas.
    """
    if Path(what).suffix != ".json":
        if model or without:
            raise InvalidInput("--model and --without are questions about a snapshot, a .json file")
        found = asyncio.run(_ask(url, what))
        if json:
            record(found)
        else:
            _show(found)
        return
    snapshot = read(Path(what))
    if without:
        snapshot = snapshot.without(without)
    plan = place(snapshot.nodes, snapshot.wanted, snapshot.replicas)
    if json:
        record(plan)
        return
    if model:
        for text in levels(snapshot, plan, model):
            line(text)
        return
    if plan.steps:
        table(_COLUMNS, [_cells(step) for step in plan.steps], needless=("memory", "from"))
    for each in plan.unplaced:
        line(f"{each.key} has no place: {each.why}")
    line(
        f"steps: {len(plan.steps)}, which fill {told_bytes(plan.moved_bytes)}; replicas that then run: "
        f"{len(plan.replicas)}; without a place: {len(plan.unplaced)}"
    )


async def _ask(url: str, model: str) -> dict[str, Any]:
    from urllib.parse import quote

    from salver.client import Client

    async with Client(url, token=token()) as client:
        path = f"/models/{quote(model, safe='')}/placement"
        found: dict[str, Any] = orjson.loads(await client.api("GET", path))
        return found


def _show(found: dict[str, Any]) -> None:
    cluster, node, process = found["cluster"], found["node"], found["process"]
    line(f"{found['model']}:{found['version']}")
    if not cluster["replicas"]:
        line("  cluster: this machine, whose server runs it")
    for each in cluster["replicas"]:
        line(f"  cluster: {each['replica']} on {each['node']}: {each['why']}")
        for name, why in each["others"].items():
            line(f"    not {name}: {why}")
    if cluster["lacking"]:
        line(f"  cluster: {cluster['lacking']}")
    line(f"  node: {_node(node, cluster['replicas'])}")
    rows = ""
    if process["rule"]:
        rows = f", up to {process['most_rows']} rows"
    if process["mean_rows"]:
        rows += f", {process['mean_rows']:g} on average so far"
    line(f"  process: {process['batch']}{rows}; {process['waits']}")


def _node(node: dict[str, Any], replicas: Sequence[dict[str, Any]]) -> str:
    """Return what a model gets of its nodes, in words."""
    where = "in the server's process"
    if node["processes"]:
        where = f"in host processes {', '.join(map(str, node['processes']))}"
    if replicas:
        where = f"a replica each, which is taken to need {told_bytes(replicas[0]['memory'])}"
    cores = "any core"
    if node["cpus"]:
        cores = f"cores {', '.join(map(str, node['cpus']))}"
    if node["cpu_quota"]:
        cores += f", for {node['cpu_quota']:g} cores' worth of time"
    return f"runs at a time: {node['instances']}, {where}; threads of each: {node['threads']}, on {cores}"


def _cells(step: Step) -> list[str]:
    return [step.action, str(step.key), step.node, step.source, told_bytes(step.bytes), step.why]
