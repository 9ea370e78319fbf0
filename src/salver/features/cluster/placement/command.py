"""``salver placement``: where the replicas of a cluster go, and why."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from salver.features.cluster.placement.policy import place
from salver.features.cluster.placement.records import Step
from salver.features.cluster.placement.snapshot import levels, read
from salver.terminal.options import Json
from salver.terminal.output import line, record, table
from salver.words.sizes import told_bytes

_COLUMNS: Final = ("step", "replica", "node", "from", "memory", "why")

placement = App(name="placement", help="Show where the replicas of a cluster go, and why.")


@placement.command
def explain(
    file: Path,
    *,
    model: Annotated[str, Parameter(help="Explain each replica of this model instead.")] = "",
    without: Annotated[str, Parameter(help="Node, zone or region that is lost first.")] = "",
    json: Json = False,
) -> None:
    """Show the steps that bring a cluster to what is wanted, each with its reason.

    Nothing is changed: the steps are those that a server would do next.

    Args:
        file: Snapshot of a cluster: JSON with nodes, wanted and replicas.
    """
    snapshot = read(file)
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


def _cells(step: Step) -> list[str]:
    return [step.action, str(step.key), step.node, step.source, told_bytes(step.bytes), step.why]
