"""Cuts of ONNX graphs: the parts answer as the models do, and what is shared is found bit by bit."""

import json
import tomllib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from salver.cli import main
from salver.features.trunks.checking import check
from salver.features.trunks.graph import Graph, common_cut, cut_at, head_of, trunk_of
from salver.words.errors import InvalidInput

WIDTH = 6


def weights(seed):
    return np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype("f4")


def layers(*seeds, skip_to=-1, output="y"):
    """A network of layers with weights by seed; ``skip_to``: this layer reads the input once more."""
    nodes, initializers, last = [], [], "x"
    for number, seed in enumerate(seeds):
        initializers.append(numpy_helper.from_array(weights(seed), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"/m.{number}"]))
        last = f"/m.{number}"
        if number == skip_to:
            nodes.append(helper.make_node("Add", [last, "x"], [f"/a.{number}"]))
            last = f"/a.{number}"
        nodes.append(helper.make_node("Relu", [last], [f"/r.{number}"]))
        last = f"/r.{number}"
    nodes[-1].output[0] = output
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", WIDTH])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def parts_of(models):
    cut = common_cut(models)
    return cut, trunk_of(models[0], cut[0]), [head_of(m, names) for m, names in zip(models, cut, strict=True)]


def graphs(*protos):
    return [Graph(f"m{number}", proto) for number, proto in enumerate(protos)]


def test_the_trunk_is_all_that_is_alike_and_only_it_has_the_shared_weights():
    models = graphs(layers(1, 2, 3), layers(1, 2, 4, 5), layers(1, 2))
    with pytest.raises(InvalidInput, match="all of m2 is before the cut"):
        parts_of(models)
    models = models[:2]
    cut, trunk, heads = parts_of(models)
    assert trunk.outputs == ("r_1",) and (trunk.nodes, [head.nodes for head in heads]) == (4, [2, 4])
    assert [len(head.proto.graph.initializer) for head in heads] == [1, 2]
    assert [head.inputs for head in heads] == [("r_1",)] * 2
    assert check(models, cut, trunk, heads, 16).apart == 0


def test_one_other_bit_of_a_weight_ends_what_is_shared():
    other = layers(1, 2, 3)
    array = weights(2)
    array.view("u4")[0, 0] ^= 1
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, "w1"))
    assert parts_of(graphs(layers(1, 2, 3), other))[1].outputs == ("r_0",)


@settings(max_examples=15, deadline=None)
@given(
    shared=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    own=st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=3), min_size=2, max_size=3),
    skip_to=st.integers(-1, 5),
)
def test_parts_answer_as_the_models_do(shared, own, skip_to):
    models = graphs(*(layers(*shared, *rest, skip_to=skip_to, output=f"y{n}") for n, rest in enumerate(own)))
    try:
        cut, trunk, heads = parts_of(models)
    except InvalidInput as error:
        assert "is before the cut" in error.message  # one is the beginning of another
        return
    assert trunk.nodes >= 2 * len(shared) - 1
    for part in (trunk, *heads):
        onnx.checker.check_model(part.proto)
    assert check(models, cut, trunk, heads, 16).apart == 0


def test_what_has_no_rows_is_computed_on_both_sides():
    """A shape goes around the cut, so that no edge of a pipeline has to carry it."""
    proto = layers(1, 2)
    graph = proto.graph
    del graph.node[-1]
    graph.initializer.append(numpy_helper.from_array(weights(9), "w9"))
    graph.node.extend(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("MatMul", ["/m.1", "w9"], ["own"]),
            helper.make_node("Reshape", ["own", "shape"], ["y"]),
        ]
    )
    cut, trunk, heads = parts_of(models := graphs(proto, layers(1, 2, 3)))
    assert "shape" not in trunk.outputs and set(heads[0].inputs) == {"x", "m_1"}
    assert check(models, cut, trunk, heads, 16).apart == 0


def branches():
    """A chain, and a second one from its end, which is added to that end."""
    proto = layers(1)
    graph = proto.graph
    graph.node[-1].output[0] = "start"
    graph.node.extend([helper.make_node("Relu", [last], [f"other.{n}"]) for n, last in chain("other")])
    graph.node.extend(
        [helper.make_node("Relu", [last], [f"late.{n}"]) for n, last in chain("late", "other.20")]
    )
    graph.node.append(helper.make_node("Add", ["late.20", "other.20"], ["y"]))
    return Graph("m", proto)


def chain(name, first="start"):
    return [(n, first if n == 1 else f"{name}.{n - 1}") for n in range(1, 21)]


@pytest.mark.parametrize(
    ("tensor", "reason", "fix"),
    [
        ("nowhere", "computes no tensor 'nowhere'", "other.9"),
        ("y", "'y' of m is an output", ""),
        ("late.5", "still needs 22 of its 43 nodes", "'other.20', after which 0"),
    ],
)
def test_bad_places_of_a_cut_are_refused_with_a_better_one(tensor, reason, fix):
    with pytest.raises(InvalidInput, match=reason) as caught:
        cut_at(branches(), tensor)
    assert fix in caught.value.fix
    assert cut_at(branches(), "other.20") == [{"other.20": "other_20"}]


def test_models_without_a_common_beginning_are_refused():
    with pytest.raises(InvalidInput, match="share no computation"):
        parts_of(graphs(layers(1, 2), layers(2, 1)))


def test_the_command_writes_models_and_pipelines(tmp_path, capsys):
    for name, seeds in (("cat", (1, 2, 3)), ("dog", (1, 2, 4))):
        onnx.save(layers(*seeds), str(tmp_path / f"{name}.onnx"))
    words = [
        "trunk",
        *(str(tmp_path / f"{name}.onnx") for name in ("cat", "dog")),
        "--to",
        str(tmp_path / "models"),
    ]
    assert main([*words, "--together", "both", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["cut"] == ["r_1"]
        and told["apart"] == 0
        and told["nodes"] == {"models": 12, "trunk": 4, "heads": [2, 2]}
    )
    for name, outputs in (("cat", {"y": "head.y"}), ("both", {"cat_y": "head_1.y", "dog_y": "head_2.y"})):
        document = tomllib.loads((tmp_path / "models" / name / "pipeline.toml").read_text())
        assert document["outputs"] == outputs
        assert document["steps"]["trunk"] == {"model": "trunk", "inputs": {"x": "x"}}
    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([words[0], words[1], "--to", str(tmp_path / "one"), "--at", "/r.0", "--name", "stem"]) == 0
    assert "equal bit by bit" in capsys.readouterr().out
    assert (tmp_path / "one" / "stem" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["cat.onnx"], "nothing to share"),
        (["cat.onnx", "cat.onnx", "--at", "x"], "Leave --at out"),
        (["no.onnx", "--at", "x"], "cannot be read"),
    ],
)
def test_the_command_says_what_it_needs(words, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(layers(1, 2), "cat.onnx")
    assert main(["trunk", *words, "--to", "models"]) == 1
    assert reason in capsys.readouterr().err
