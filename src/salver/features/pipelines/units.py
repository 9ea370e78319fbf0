"""Units of a plan: heavy steps that follow one another and run in one call of a thread.

Handing a request to a thread and back costs more than most steps. Where a step is read by the next one alone,
nothing else could run between them, so that one call of a thread runs them all. Pure.
"""

from collections.abc import Mapping, Sequence

from salver.features.pipelines.planning import Node, Plan
from salver.features.pipelines.running import AS_IS

Unit = tuple[Node, ...]


def units(plan: Plan) -> tuple[Unit, ...]:
    """Return the units of a plan: each begins and ends with a heavy step, with any steps between them."""
    readers = _readers(plan)
    stand_ins = {node.table.on_error.step for node in plan.nodes if node.table.on_error is not None}
    found: list[Unit] = []
    run: list[Node] = []
    for node in plan.nodes:
        is_fit = _is_plain(node) and node.name not in stand_ins
        if is_fit and run and _continues(node, run, readers, plan):
            run.append(node)
            continue
        found += _whole(run)
        run = [node] if is_fit and _is_heavy(node) else []
    return (*found, *_whole(run))


def outputs_of(node: Node) -> set[str]:
    """Return the sources that a step gives."""
    return {f"{node.name}.{name}" for name in node.outputs}


def _readers(plan: Plan) -> Mapping[str, set[str]]:
    """Return the names of the steps that read a step, by its name."""
    found: dict[str, set[str]] = {node.name: set() for node in plan.nodes}
    writers = {source: node.name for node in plan.nodes for source in outputs_of(node)}
    for node in plan.nodes:
        for edge in (*node.edges, *filter(None, [node.condition])):
            if edge.source in writers:
                found[writers[edge.source]].add(node.name)
    return found


def _is_plain(node: Node) -> bool:
    """Return whether a step runs on the rows that it gets, and nothing is said of how it runs."""
    table = node.table
    if node.step is None or node.step.merges or node.items is not None or node.condition is not None:
        return False
    if table.on_error is not None or table.time_share or table.how != AS_IS:
        return False
    return all(edge.type is not None and edge.type.axis == node.axis for edge in node.edges)


def _is_heavy(node: Node) -> bool:
    # A step that runs on the event loop for small inputs needs no thread for them.
    return node.step is not None and node.step.is_heavy and not node.step.quick_bytes


def _continues(node: Node, run: Sequence[Node], readers: Mapping[str, set[str]], plan: Plan) -> bool:
    """Return whether a step may follow in the same call: it waits for the last one, and for no other."""
    first, last = run[0], run[-1]
    assert first.step is not None and node.step is not None, "models are no part of a unit"
    if readers[last.name] != {node.name} or node.axis != first.axis:
        return False
    if _is_heavy(node) and node.step.threads != first.step.threads:
        return False
    there = {edge.source for edge in first.edges} | plan.inputs.keys() | outputs_of(last)
    return all(edge.source in there for edge in node.edges)


def _whole(run: list[Node]) -> list[Unit]:
    """Return the unit that steps make, without the light ones at its end; nothing for a single step."""
    while run and not _is_heavy(run[-1]):
        run.pop()
    return [tuple(run)] if len(run) > 1 else []
