"""Do an ensemble's models fit together, and which step is ready when?"""

import numpy as np
import pytest

from salver.features.pipelines.graph import Flow, Graph, Marks, Member, Port, Value, connect
from salver.words.artifacts import Batching, Ensemble, EnsembleStep, ModelConfig, Reshape
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType, tensor

FP32, INT32, BOOL, BYTES = DataType.FP32, DataType.INT32, DataType.BOOL, DataType.BYTES


def specs(text: str, batched: bool) -> tuple[TensorSpec, ...]:
    """``x:FP32[3]? y:INT32[-1]``: the ``?`` says optional; a batch dimension is put in front."""
    made = []
    for part in text.split():
        name, _, rest = part.rstrip("?").partition(":")
        kind, _, dims = rest.rstrip("]").partition("[")
        shape = tuple(int(d) for d in dims.split(",") if d)
        made.append(
            TensorSpec(name, DataType[kind], (-1, *shape) if batched else shape, optional=part.endswith("?"))
        )
    return tuple(made)


def member(ins: str, outs: str, batched: bool = True, decoupled: bool = False) -> Member:
    return Member(Signature(specs(ins, batched), specs(outs, batched), batched), decoupled)


def step(model: str, ins: str, outs: str, **more: str) -> EnsembleStep:
    """``x=a y=b``: the model's name of a tensor, and the ensemble's."""
    pairs = [dict(part.split("=") for part in side.split()) for side in (ins, outs)]
    return EnsembleStep(model, "", *pairs, **more)


def made(
    members: dict[str, Member],
    *steps: EnsembleStep,
    ins: str = "",
    outs: str = "",
    batched: bool = True,
    **more: object,
) -> Graph:
    config = ModelConfig(
        inputs=specs(ins, batched),
        outputs=specs(outs, batched),
        ensemble=Ensemble(steps),
        batching=Batching(has_rows=batched),
        **more,  # type: ignore[arg-type]
    )
    return connect("e", config, {(name, ""): found for name, found in members.items()})


NET = member("x:FP32[3]", "y:FP32[2]")
CHAIN = (step("net", "x=a", "y=b"), step("post", "x=b", "y=c"))


@pytest.mark.clause("TR-S6")
def test_a_chain() -> None:
    graph = made(
        {"net": NET, "post": member("x:FP32[2]", "y:BYTES[1]")}, *CHAIN, ins="a:FP32[3]", outs="c:BYTES[1]"
    )
    assert graph.signature == Signature(
        (TensorSpec("a", FP32, (-1, 3)),), (TensorSpec("c", BYTES, (-1, 1)),), True, "ensemble"
    )
    assert [(s.model, s.reach, s.gives) for s in graph.steps] == [("net", 0, 0), ("post", 0, 0)]
    assert not graph.is_decoupled


@pytest.mark.clause("TR-S6")
def test_inputs_and_outputs_that_nobody_names_are_the_models_own() -> None:
    labelled = Member(
        Signature(
            (TensorSpec("x", FP32, (-1, 2)),), (TensorSpec("y", FP32, (-1, 2), labels=("cat", "dog")),), True
        )
    )
    graph = made({"net": NET, "post": labelled}, *CHAIN)
    assert graph.signature.inputs == (TensorSpec("a", FP32, (-1, 3)),)
    assert graph.signature.outputs == (TensorSpec("c", FP32, (-1, 2), labels=("cat", "dog")),)
    assert graph.signature.batched
    named = made({"net": NET, "post": labelled}, *CHAIN, ins="a:FP32[3]", outs="c:FP32[2]")
    assert named.signature.outputs[0].labels == ("cat", "dog")


@pytest.mark.clause("TR-C10")
@pytest.mark.parametrize(
    ("post", "more", "message"),
    [
        (
            member("x:INT32[2]", "y:BYTES[1]"),
            {},
            "in ensemble e, ensemble tensor b: inconsistent data type: TYPE_FP32 is inferred "
            "from model net while "
            "TYPE_INT32 is inferred from model post",
        ),
        (
            member("x:FP32[3]", "y:BYTES[1]"),
            {},
            "in ensemble e, ensemble tensor b: inconsistent shape: [-1,2] is inferred from "
            "model net while [-1,3] is "
            "inferred from model post",
        ),
        (
            member("z:FP32[2]", "y:BYTES[1]"),
            {},
            "in ensemble e, ensemble tensor b is mapping to non-existing input x in model post",
        ),
        (
            member("x:FP32[2]", "z:BYTES[1]"),
            {},
            "in ensemble e, ensemble tensor c is mapped from non-existing output y in model post",
        ),
        (
            member("x:FP32[2] z:FP32[2]", "y:BYTES[1]"),
            {},
            "in ensemble e, input z in model post is not mapped to any ensemble tensors",
        ),
        (
            member("x:FP32[2]", "y:FP32[1]"),
            {"outs": "c:BYTES[1]"},
            "in ensemble e, ensemble tensor c: inconsistent data type: TYPE_STRING is inferred "
            "from model e while "
            "TYPE_FP32 is inferred from model post",
        ),
        (
            member("x:FP32[2]", "y:BYTES[1]"),
            {"ins": "a:FP32[4]", "outs": "c:BYTES[1]"},
            "in ensemble e, ensemble tensor a: inconsistent shape: [-1,4] is inferred from "
            "model e while [-1,3] is "
            "inferred from model net",
        ),
    ],
)
def test_models_that_do_not_fit(post: Member, more: dict[str, str], message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        made({"net": NET, "post": post}, *CHAIN, **more)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.clause("TR-C10")
def test_optional_inputs_need_no_tensor() -> None:
    graph = made({"net": NET, "post": member("x:FP32[2] z:FP32[2]?", "y:BYTES[1]")}, *CHAIN)
    assert [port.name for port in graph.steps[1].inputs] == ["x"]


@pytest.mark.clause("TR-C10")
def test_free_extents_are_for_the_request_to_fit() -> None:
    made(
        {"net": NET, "post": member("x:FP32[-1]", "y:BYTES[1]")}, *CHAIN, ins="a:FP32[-1]", outs="c:BYTES[-1]"
    )


@pytest.mark.clause("TR-C10")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NET, member("x:FP32[2]", "y:FP32[2]", batched=False)),
        (NET, member("x:FP32[-1,2]", "y:FP32[2]", batched=False)),
        (member("x:FP32[5,3]", "y:FP32[-1,2]", batched=False), member("x:FP32[2]", "y:FP32[2]")),
    ],
)
def test_batched_and_plain_models_may_be_mixed(first: Member, second: Member) -> None:
    made({"net": first, "post": second}, *CHAIN)


SPLIT = member("x:FP32[3]", "y:FP32[2]", decoupled=True)


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize(
    ("first", "guard", "gives_parts"),
    [
        (SPLIT._replace(gives_parts=True), "", True),
        (SPLIT._replace(gives_parts=True), "w", False),  # an output may be missing in some of them
        (SPLIT, "", False),
        (NET, "", False),
    ],
)
def test_responses_are_parts_of_one_answer_where_those_of_the_model_are(
    first: Member, guard: str, gives_parts: bool
) -> None:
    last = step("post", "x=b", "y=c", **({"when": guard} if guard else {}))
    guards = [step("judge", "x=b", "y=w")] if guard else []
    members = {
        "net": first,
        "post": member("x:FP32[2]", "y:BYTES[1]"),
        "judge": member("x:FP32[2]", "y:BOOL[1]"),
    }
    graph = made(members, CHAIN[0], *guards, last, ins="a:FP32[3]", outs="c:BYTES[1]")
    assert graph.gives_parts is gives_parts


@pytest.mark.clause("TR-S8")
def test_what_follows_a_decoupled_model_runs_for_each_of_its_responses() -> None:
    graph = made({"net": SPLIT, "post": member("x:FP32[2]", "y:FP32[2]")}, *CHAIN)
    assert [(s.reach, s.gives) for s in graph.steps] == [(0, 1), (1, 1)]
    assert (graph.is_decoupled, graph.reach) == (True, 1)


@pytest.mark.clause("TR-S8")
def test_responses_of_different_models_do_not_meet() -> None:
    both = member("x:FP32[2] z:FP32[2]", "y:FP32[2]")
    steps = (step("net", "x=a", "y=b"), step("net", "x=a", "y=d"), step("post", "x=b z=d", "y=c"))
    text = "step of model '{}' receives inputs originated from different decoupled models"
    with pytest.raises(LoadFailed, match=text.format("post")):
        made({"net": SPLIT, "post": both}, *steps)
    with pytest.raises(LoadFailed, match=text.format("post")):
        made(
            {"net": SPLIT, "post": member("x:FP32[2] z:FP32[3]", "y:FP32[2]")},
            steps[0],
            step("post", "x=b z=a", "y=c"),
        )
    with pytest.raises(LoadFailed, match=text.format("e")):
        made({"net": SPLIT}, *steps[:2])


def test_a_condition_is_boolean() -> None:
    with pytest.raises(LoadFailed, match="the condition 'b' of step 1 is FP32, not BOOL"):
        made(
            {"net": NET, "post": member("x:FP32[3]", "y:FP32[2]")},
            CHAIN[0],
            step("post", "x=a", "y=c", when="b"),
        )
    graph = made({"net": NET}, step("net", "x=a", "y=b", when="flag"))
    assert graph.signature.inputs[1] == TensorSpec("flag", BOOL, (-1,))


# -- one request -------------------------------------------------------------------------------

ONE = member("x:FP32[1]", "y:FP32[1]")
TWO = member("x:FP32[1] z:FP32[1]", "y:FP32[1]")
LOOSE = member("x:FP32[1] z:FP32[1]?", "y:FP32[1]")
VALUE = Value(tensor("t", np.zeros((1, 1), "f4")), 1, Marks())


def flag(*values: bool) -> Value:
    return Value(tensor("flag", np.array(values)), len(values), Marks())


def ready(flow: Flow, *names: str, absent: tuple[str, ...] = (), **more: Value | None) -> list[int]:
    values: dict[str, Value | None] = dict.fromkeys(names, VALUE)
    return [step.index for step in flow.put(values | more, absent)]


@pytest.mark.clause("TR-S6")
def test_a_step_is_ready_when_all_its_tensors_are_there() -> None:
    steps = (step("two", "x=b z=c", "y=d"), step("one", "x=a", "y=b"), step("one", "x=a", "y=c"))
    flow = Flow(made({"one": ONE, "two": TWO}, *steps))
    assert ready(flow, "a") == [1, 2]
    assert ready(flow, "c") == []
    assert ready(flow, "b") == [0]
    assert ready(flow, "d") == []


@pytest.mark.clause("TR-S6")
def test_steps_whose_outputs_nobody_wants_are_left_out() -> None:
    steps = (step("one", "x=a", "y=b"), step("one", "x=b", "y=c"), step("one", "x=b", "y=d"))
    graph = made({"one": ONE}, *steps)
    assert graph.needed(["c"]) == {0, 1}
    flow = Flow(graph, only=graph.needed(["c"]))
    assert ready(flow, "a") == [0]
    assert ready(flow, "b") == [1]


@pytest.mark.clause("TR-S6")
def test_one_tensor_may_be_several_inputs_of_a_step() -> None:
    assert ready(Flow(made({"two": TWO}, step("two", "x=a z=a", "y=b"))), "a") == [0]


BRANCHES = (
    step("one", "x=a", "y=b", when="flag"),
    step("one", "x=a", "y=b", unless="flag"),
    step("one", "x=b", "y=c"),
)


@pytest.mark.parametrize(("values", "runs"), [((True,), 0), ((False,), 1), ((False, True), 0), ((), 1)])
def test_one_of_two_branches_runs(values: tuple[bool, ...], runs: int) -> None:
    flow = Flow(made({"one": ONE}, *BRANCHES))
    assert ready(flow, "a", flag=flag(*values)) == [runs]
    assert flow.absent == set()
    assert ready(flow, "b") == [2]


def test_what_waits_for_a_step_that_is_skipped_is_skipped_too() -> None:
    steps = (
        step("one", "x=a", "y=b", when="flag"),
        step("one", "x=b", "y=c"),
        step("loose", "x=a z=b", "y=d"),
        step("two", "x=a z=c", "y=e"),
    )
    flow = Flow(made({"one": ONE, "two": TWO, "loose": LOOSE}, *steps))
    assert ready(flow, "a", flag=flag(False)) == [2]
    assert flow.absent == {"b", "c", "e"}


def test_an_absent_condition_skips_both_branches() -> None:
    steps = (step("flags", "x=a", "y=flag", when="first"), *BRANCHES)
    members = {"one": ONE, "flags": member("x:FP32[1]", "y:BOOL[1]")}
    flow = Flow(made(members, *steps))
    assert ready(flow, "a", first=flag(False)) == []
    assert flow.absent == {"flag", "b", "c"}


@pytest.mark.clause("TR-C4")
def test_an_input_that_was_left_out_keeps_nobody_waiting() -> None:
    graph = made({"two": TWO}, step("two", "x=a z=b", "y=c"), ins="a:FP32[1] b:FP32[1]?", outs="c:FP32[1]")
    assert ready(Flow(graph), "a", b=None) == [0]
    guarded = made({"one": ONE}, *BRANCHES, ins="a:FP32[1] flag:BOOL[]?", outs="c:FP32[1]")
    assert ready(Flow(guarded), "a", flag=None) == [1]


@pytest.mark.clause("TR-S6")
@pytest.mark.parametrize(
    ("shape", "rows", "expected", "batched", "seen"),
    [
        ((2, 3), 2, (-1, 3), True, (2, 3)),
        ((3,), 0, (-1, 3), True, (1, 3)),
        ((2, 3), 0, (-1, 3), True, (2, 3)),
        ((1, 3), 1, (3,), False, (3,)),
        ((1, 3), 1, (-1, 3), False, (1, 3)),
        ((2, 3), 2, (-1, 3), False, (2, 3)),
        ((2, 3), 2, (3,), False, (2, 3)),
    ],
)
def test_with_and_without_a_batch_dimension_nothing_is_copied(
    shape: tuple[int, ...], rows: int, expected: tuple[int, ...], batched: bool, seen: tuple[int, ...]
) -> None:
    value = Value(tensor("t", np.zeros(shape, "f4")), rows, Marks())
    array = value.at(Port("x", "t", expected, batched))
    assert array.shape == seen
    assert np.shares_memory(array, value.tensor.array)


@pytest.mark.clause("TR-S4")
def test_marks_of_a_sequence() -> None:
    mine = Marks(7, True, False)
    assert Marks.of({}, mine) is mine
    assert Marks.of({"other": 1}, mine) is mine
    assert Marks.of({"sequence_id": "s", "sequence_end": True}, mine) == Marks("s", False, True)
    assert Marks.of({"sequence_start": True}, mine) == Marks(7, True, False)
    assert Marks("s").parameters() == {"sequence_id": "s", "sequence_start": False, "sequence_end": False}


@pytest.mark.clause("TR-C4")
def test_shapes_inside_may_be_others() -> None:
    reshape = Reshape({"a": (-1, 3)}, {"b": (-1, 2)})
    graph = made(
        {"net": NET}, step("net", "x=a", "y=b"), ins="a:FP32[1,3]", outs="b:FP32[2,1]", reshape=reshape
    )
    assert (graph.signature.inputs[0].shape, graph.outputs[0].shape) == ((-1, 1, 3), (-1, 2))
