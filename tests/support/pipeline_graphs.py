"""Pipelines for tests: plans of texts in TOML, with models that exist only as signatures or functions."""

from pathlib import Path

import numpy as np

from salver.features.pipelines.compiling import Runner, compiled
from salver.features.pipelines.document import parse
from salver.features.pipelines.graph import Flow, Marks, Value
from salver.features.pipelines.planning import plan
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DATATYPES, tensor


def specs(text):
    """``x FP32[-1,4]; y INT64[-1]`` as tensors; the ``?`` of ``z? FP32[-1]`` says optional."""
    found = []
    for part in filter(None, text.split(";")):
        name, type = part.split()
        kind, _, dims = type.rstrip("]").partition("[")
        shape = tuple(map(int, dims.split(",")))
        found.append(TensorSpec(name.rstrip("?"), DATATYPES[kind], shape, name.endswith("?")))
    return tuple(found)


def signature(inputs, outputs):
    sides = specs(inputs), specs(outputs)
    return Signature(*sides, all(spec.shape[0] == -1 for side in sides for spec in side))


#: Models that tests name.
SIGNATURES = {
    "bert": signature(
        "input_ids INT64[-1,-1]; attention_mask INT64[-1,-1]; token_type_ids? INT64[-1,-1]",
        "last_hidden_state FP32[-1,-1,384]",
    ),
    "classifier": signature("input_ids INT64[-1,-1]; attention_mask INT64[-1,-1]", "logits FP32[-1,2]"),
    "int32": signature("input_ids INT32[-1,-1]", "logits FP32[-1,2]"),
    "scorer": signature("x FP32[-1,384]", "y FP32[-1]"),
    "four": signature("x FP32[-1,4]", "y FP32[-1,4]"),
    "double": signature("x FP64[-1,-1]", "y FP64[-1,-1]"),
    "detector": signature("image FP32[1,3,8,8]", "boxes FP32[1,20,4]; scores FP32[1,20]"),
    "texts": signature("text BYTES[-1]", "label BYTES[-1]; sure BOOL[-1]; score FP32[-1]"),
    "two": signature("a FP32[-1,4]; b FP32[-1,4]", "y FP32[-1,4]"),
    "grid": signature("x FP32[-1,3,3]", "y FP32[-1,9]"),
    "flags": signature("x FP32[-1,4]", "flags BOOL[-1,4]"),
}


def planned(text, signatures=SIGNATURES, folder=Path("/nowhere")):
    document = parse(text.encode(), "pipeline.toml")
    return plan("p", document, folder, lambda table: signatures.get(table.model))


class Runs:
    """A planned pipeline whose models are functions by the names of their steps."""

    def __init__(self, text, functions=None, signatures=SIGNATURES, folder=Path("/nowhere")):
        self.plan = planned(text, signatures, folder)
        functions = functions or {}

        def runner(node):
            return Runner(node.step.open(folder) if node.step else functions[node.name])

        self.graph = compiled(self.plan, runner)

    def __call__(self, **inputs):
        flow = Flow(self.graph)
        given = {name: Value(tensor(name, values), 1, Marks()) for name, values in inputs.items()}
        ready = flow.put(given)
        for step in ready:
            tensors = step.run.always({port.name: flow.array(port.tensor) for port in step.inputs})
            ready += flow.put({name: Value(made, 1, Marks()) for name, made in tensors.items()})
        return {port.name: flow.array(port.tensor) for port in self.graph.outputs}


def texts(*values):
    found = np.empty(len(values), object)
    found[:] = [value.encode() for value in values]
    return found
