"""Random pipelines give what an interpreter gives that runs one row at a time."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive_pipelines import interpret
from pipeline_graphs import Runs, planned, signature
from soaking import size

from salver.features.pipelines.compiling import Runner, compiled
from salver.features.pipelines.document import parse
from salver.features.pipelines.planning import _Planner
from salver.features.pipelines.served import PipelineEngine
from salver.kernel.serving.inner import ALONE
from salver.words.artifacts import ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor

NOWHERE = Path("/nowhere")

MODELS = {
    "four": signature("x FP32[-1,4]", "y FP32[-1,4]"),
    "two": signature("a FP32[-1,4]; b FP32[-1,4]", "y FP32[-1,4]"),
    "scalar": signature("x FP32[-1]", "y FP32[-1]"),
}
FUNCTIONS = {
    "four": lambda arrays: {"y": arrays["x"] * np.float32(2) + np.float32(1)},
    "two": lambda arrays: {"y": arrays["a"] - arrays["b"]},
    "scalar": lambda arrays: {"y": -arrays["x"]},
}
#: Steps by what they need: kind and the inputs that get an edge.
KINDS = [
    ('model = "four"', ("x",)),
    ('model = "two"', ("a", "b")),
    ('model = "scalar"', ("x",)),
    ('use = "softmax"', ("logits",)),
    ('use = "normalise"', ("vector",)),
    ('use = "arg-max"', ("scores",)),
    ('use = "top-k"\nk = 2', ("scores",)),
    ('use = "threshold"\nleast = 0.3', ("values",)),
    ('use = "labels"\nnames = ["a", "b", "c"]', ("index",)),
    ('use = "each"', ("list",)),
    ('use = "each"', ("list", "count")),
    ('use = "reduce"', ("values",)),
    ('use = "reduce"\nby = "max"', ("values",)),
    ('use = "collect"', ("item",)),
    ('use = "merge"', ("first", "second")),
    ('use = "merge"', ("first", "second")),
]


#: Steps with which each pipeline begins: conditions for rows, and for the items of lists.
START = {
    "best": 'use = "arg-max"\ninputs = { scores = "v" }',
    "high": 'use = "threshold"\nleast = 0.8\ninputs = { values = "best.score" }',
    "items": 'use = "each"\ninputs = { list = "w", count = "best.index" }',
    "some": 'use = "threshold"\nleast = 0\ninputs = { values = "items.item" }',
    "yes": 'model = "four"\ninputs = { x = "v" }\nwhen = "high.reached"',
    "no": 'use = "normalise"\ninputs = { vector = "w" }\nunless = "high.reached"',
}
HEAD = '[inputs]\nv = "FP32[-1,4]"\nw = "FP32[-1,4]"\n'


def are_branches(one, other):
    """Return whether edges of these rows may be merged, if they are of one type."""
    kind, _, condition = one[-1].partition(" ")
    opposite = f"{'when' if kind == 'unless' else 'unless'} {condition}"
    return bool(condition) and other in ((*one[:-1], opposite), one[:-1])


@st.composite
def pipelines(draw):
    """Draw the text of a pipeline with all outputs that have the request's rows."""
    bare = parse((HEAD + '[steps.a]\nmodel = "four"\n').encode(), "pipeline.toml")
    planner = _Planner(bare, NOWHERE, lambda table: MODELS[table.model])
    tables: dict[str, str] = {}
    edges = {"v": (), "w": ()}

    def add(name, text):
        try:
            node = planner._node(parse(text.encode(), "pipeline.toml").steps[0])
        except LoadFailed:
            return
        planner._nodes[name], tables[name] = node, text
        # Collected lists are as long as the longest row's, which one row alone does not know.
        edges.update({f"{name}.{out}": type.axis for out, type in node.outputs.items() if out != "list"})

    for name, text in START.items():
        add(name, f"[steps.{name}]\n{text}\n")
    for number in range(draw(st.integers(1, 16))):
        kind, ports = draw(st.sampled_from(KINDS))
        sources = [draw(st.sampled_from(sorted(edges))) for _ in ports]
        pairs = [
            (one, other)
            for one, axis in edges.items()
            for other in edges
            if axis and kind == 'use = "merge"' and are_branches(axis, edges[other])
        ]
        if pairs:
            sources = draw(st.sampled_from(pairs))
        linked = ", ".join(f'{port} = "{told}"' for port, told in zip(ports, sources, strict=True))
        name = f"s{number}"
        text = f"[steps.{name}]\n{kind}\ninputs = {{ {linked} }}\n"
        flags = [edge for edge in edges if edge.endswith(".reached")]
        if "merge" not in kind and draw(st.integers(0, 2)):
            text += f'{draw(st.sampled_from(["when", "unless"]))} = "{draw(st.sampled_from(flags))}"\n'
        add(name, text)
    return closed(planner, tables)


def closed(planner, tables):
    """Return the text of a pipeline in which something reads every step: lists and branches are collected."""
    while open_edges := [
        f"{name}.{[*node.outputs][-1]}"  # of a collected list its length: the items may differ in shape
        for name, node in planner._nodes.items()
        if all(type.axis for type in node.outputs.values()) and f'"{name}.' not in "".join(tables.values())
    ]:
        for edge in open_edges:
            name = f"c{len(tables)}"
            tables[name] = f'[steps.{name}]\nuse = "collect"\ninputs = {{ item = "{edge}" }}\n'
            planner._nodes[name] = planner._node(parse(tables[name].encode(), "pipeline.toml").steps[0])
    body = "".join(tables.values())
    inputs = "".join(f'{name} = "FP32[-1,4]"\n' for name in "vw" if f'"{name}"' in body)
    outputs = "".join(
        f'{name}_{out} = "{name}.{out}"\n'
        for name, node in planner._nodes.items()
        for out, type in node.outputs.items()
        if not type.axis
    )
    return f"[inputs]\n{inputs}{body}[outputs]\n{outputs}"


@pytest.mark.soak
@settings(max_examples=size(1000, 60), deadline=None, suppress_health_check=list(HealthCheck))
@given(pipelines(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_pipeline_gives_what_its_rows_give_one_by_one(text: str, rows: int, seed: int) -> None:
    if "[steps." not in text:
        return
    functions = {
        node.name: FUNCTIONS[node.table.model] for node in planned(text, MODELS).nodes if not node.step
    }
    pipeline = Runs(text, functions, MODELS)
    random = np.random.default_rng(seed)
    inputs = {name: random.normal(size=(rows, 4)).astype(np.float32) for name in pipeline.plan.inputs}

    def run_of(node):
        if node.step is None:
            return functions[node.name]
        return node.step.open(NOWHERE)

    wanted = interpret(pipeline.plan, inputs, run_of)
    compare(pipeline(**inputs), wanted, rows)
    for most_bytes in (1 << 20, 0):  # 0: every step is too much for the event loop
        compare(asyncio.run(served(pipeline, functions, inputs, most_bytes)), wanted, rows)


async def served(pipeline, functions, inputs, most_bytes):
    """Return the outputs as a server gives them, which waits for models and large steps."""

    def runner(node):
        if node.step is not None:
            return Runner(node.step.open(NOWHERE))

        async def ask(request, call, sender):
            await asyncio.sleep(0)
            assert all(len(tensor.array) for tensor in request.inputs), "a model is asked about no rows"
            given = functions[node.name]({tensor.name: tensor.array for tensor in request.inputs})
            return InferResponse("m", "1", tuple(tensor(name, array) for name, array in given.items()))

        return Runner(ask=ask)

    graph = compiled(pipeline.plan, runner)
    for step in graph.steps:
        if step.run is not None:
            step.run.most_bytes = most_bytes
    engine = PipelineEngine(
        ModelId("p", "1"), graph, ALONE, ModelConfig(), time.monotonic, lambda event: None
    )
    request = InferRequest("p", tuple(tensor(name, array) for name, array in inputs.items()))
    response = await engine.infer(request)
    return {found.name: found.array for found in response.outputs}


def compare(found, wanted, rows):
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        assert len(array) == rows
        for index, own in enumerate(wanted[name]):
            row = array[index : index + 1]
            if name.endswith("_list"):
                assert not row[:, own.shape[1] :].any()
                row = row[:, : own.shape[1]]
            if row.dtype == object:
                assert row.tolist() == own.tolist()
            else:
                np.testing.assert_allclose(row, own, rtol=1e-5, atol=1e-6)
