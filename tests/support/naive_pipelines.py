"""Interpreter of a pipeline's plan that runs one row at a time, to compare with; and random pipelines.

A value is a list of rows, of which those of lists and conditions are lists themselves, as deep as their axis.
"""

import numpy as np

from salver.features.pipelines.steps.step import OFFSETS


def interpret(plan, inputs, run_of):
    """Return the outputs, each a list of rows; ``run_of(node)`` runs arrays of one row."""
    values = {name: [array[row : row + 1] for row in range(len(array))] for name, array in inputs.items()}
    rows = len(next(iter(inputs.values())))
    axes = dict.fromkeys(inputs, ())
    for node in plan.nodes:
        axes.update((f"{node.name}.{name}", type.axis) for name, type in node.outputs.items())
        found = [_node(node, values, axes, (row,), run_of(node)) for row in range(rows)]
        for name in node.outputs:
            values[f"{node.name}.{name}"] = [_picked(each, name) for each in found]
    return {output.name: values[output.source] for output in plan.outputs}


def _picked(found, name):
    return [_picked(each, name) for each in found] if isinstance(found, list) else found[name]


def _at(value, address):
    for index in address:
        value = value[index]
    return value


def _node(node, values, axes, address, run):
    """Return what a node gives for the rows below an address, in lists as deep as its axis."""
    depth = len(address) - 1
    if depth < len(node.axis):
        if node.axis[depth] == node.part:
            at = address[: len(axes[node.condition.source]) + 1]
            is_true = bool(_at(values[node.condition.source], at)[0])
            sizes = int(is_true != (node.condition.port == "unless"))
        else:
            sizes = len(_at(_deeper(node, values, axes, depth), address))
        return [_node(node, values, axes, (*address, index), run) for index in range(sizes)]
    if node.step is not None and node.step.merges:
        return {"merged": _merged(node, values, axes, address)}
    given = {}
    for edge in node.edges:
        if edge.is_item:
            items = _at(values[edge.source], address)
            given[OFFSETS] = np.array([0, len(items)])
            shape = (0, *(max(0, extent) for extent in edge.type.shape[1:]))
            given[edge.port] = np.concatenate(items or [np.empty(shape, edge.type.datatype.dtype)])
        else:
            given[edge.port] = _at(values[edge.source], address[: len(axes[edge.source]) + 1])
    found = dict(run(given))
    if node.is_apart:
        count = found.pop(OFFSETS)[-1]
        return [{name: array[i : i + 1] for name, array in found.items()} for i in range(count)]
    return found


def _deeper(node, values, axes, depth):
    """Return a value whose lists reach below a depth along the node's axis."""
    return next(
        values[edge.source]
        for edge in (*node.edges, *filter(None, [node.condition]))
        if axes[edge.source][: depth + 1] == node.axis[: depth + 1]
    )


def _merged(node, values, axes, address):
    for edge in node.edges:
        found = _at(values[edge.source], address)
        if len(axes[edge.source]) == len(node.axis):
            return found
        if found:
            return found[0]
    raise AssertionError("neither branch has the row")
