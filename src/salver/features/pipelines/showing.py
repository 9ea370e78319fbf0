"""Drawing of a pipeline: its steps from the top down, with the edges that each reads. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from salver.features.pipelines.edges import EdgeType
from salver.features.pipelines.planning import Edge, Node, Plan

_UNKNOWN = "?"  # type of an edge of a model that is not known here


def drawn(plan: Plan) -> list[str]:
    """Return the lines of the drawing."""
    rows: list[tuple[str, str, str]] = [("", name, _type(type)) for name, type in plan.inputs.items()]
    for node in plan.nodes:
        rows.append(("┌ ", f"{node.name}: {_kind(node)}", _rows(node)))
        how = {key: msgspec.json.encode(value).decode() for key, value in _how(node).items()}
        rows += [("│ ", f"{key} = {value}", "") for key, value in how.items()]
        rows += [("│ ← ", _edge(edge), _type(edge.type)) for edge in _edges(node)]
        rows += [("└ → " if is_last else "│ → ", name, type) for name, type, is_last in _outputs(node)]
    rows += [("", f"{output.name} ← {output.source}", _type(output.type)) for output in plan.outputs]
    width = max(len(mark) + len(text) for mark, text, _ in rows)
    return [f"{mark}{text.ljust(width - len(mark))}  {type}".rstrip() for mark, text, type in rows]


def described(plan: Plan) -> dict[str, Any]:
    """Return the pipeline as JSON shows it."""
    return {
        "name": plan.name,
        "inputs": [{"name": name, "type": _type(type)} for name, type in plan.inputs.items()],
        "steps": [
            {
                "name": node.name,
                "use": node.table.use,
                "model": node.table.model,
                "inputs": [
                    {"name": edge.port, "source": edge.source, "type": _type(edge.type)}
                    for edge in node.edges
                ],
                "when": node.table.when,
                "unless": node.table.unless,
                "outputs": [{"name": name, "type": type} for name, type, _ in _outputs(node)],
                "rows": list(node.axis),
                **_how(node),
            }
            for node in plan.nodes
        ],
        "outputs": [
            {"name": output.name, "source": output.source, "type": _type(output.type)}
            for output in plan.outputs
        ],
    }


def _kind(node: Node) -> str:
    if node.step is None:
        return f"model {node.table.model}"
    told = {name: msgspec.json.encode(value).decode() for name, value in node.table.options.items()}
    options = ", ".join(f"{name} = {value}" for name, value in told.items())
    return f"{node.table.use} ({options})" if options else node.table.use


def _how(node: Node) -> dict[str, Any]:
    """Return what the file says of how a step runs."""
    found: dict[str, Any] = msgspec.to_builtins(node.table.how)
    return {key: value for key, value in found.items() if value}


def _rows(node: Node) -> str:
    """Return which rows a step runs on, unless they are the request's."""
    return " › ".join(part if " " in part else f"each of {part}" for part in node.axis)


def _edges(node: Node) -> Iterator[Edge]:
    yield from node.edges
    if node.condition is not None:
        yield node.condition


def _edge(edge: Edge) -> str:
    if edge.source == edge.port or edge.source.endswith(f".{edge.port}"):
        return edge.source
    return f"{edge.source} as {edge.port}"


def _outputs(node: Node) -> Iterator[tuple[str, str, bool]]:
    for index, (name, type) in enumerate(node.outputs.items(), 1):
        yield name, _type(type), index == len(node.outputs)


def _type(type: EdgeType | None) -> str:
    return _UNKNOWN if type is None else str(type)
