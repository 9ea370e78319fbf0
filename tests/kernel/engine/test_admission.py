"""What fits a model, and what is said when it does not."""

import numpy as np
import pytest

from salver.dialects.oip.faults import grpc_status, http_fault
from salver.dialects.tensorflow.faults import tfs_fault
from salver.kernel.engine.admission import Admission
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

FIXED = Signature(
    (TensorSpec("a", DataType.FP32, (-1, 3)), TensorSpec("b", DataType.INT64, (-1,))),
    (TensorSpec("y", DataType.FP32, (-1,)),),
    batched=True,
)
FREE = Signature(
    (
        TensorSpec("ids", DataType.INT64, (-1, -1)),
        TensorSpec("mask", DataType.INT64, (-1, -1), optional=True),
    ),
    (TensorSpec("y", DataType.FP32, (-1,)),),
    batched=True,
)
WHOLE = Signature((TensorSpec("x", DataType.FP32, (2, 2)),), (TensorSpec("y", DataType.FP32, ()),))

A = tensor("a", np.zeros((2, 3), "f4"))
B = tensor("b", np.zeros(2, "i8"))


def bind(signature, *tensors, outputs=()):
    return Admission("m", signature).bind(InferRequest("m", tensors, outputs=outputs))


def test_fits():
    bound = bind(FIXED, A, B)
    assert (bound.rows, bound.key, bound.outputs) == (2, None, ("y",))
    assert bound.arrays[0] is A.array


def test_order_of_inputs_is_free():
    bound = bind(FIXED, B, A)
    assert bound.arrays[0] is A.array
    assert bound.arrays[1] is B.array


def test_free_dimensions_make_the_key():
    short = bind(FREE, tensor("ids", np.zeros((1, 4), "i8")))
    long = bind(FREE, tensor("ids", np.zeros((3, 9), "i8")))
    same = bind(FREE, tensor("ids", np.zeros((2, 4), "i8")))
    assert short.key == same.key != long.key
    assert short.arrays[1] is None
    masked = bind(FREE, tensor("ids", np.zeros((1, 4), "i8")), tensor("mask", np.zeros((1, 4), "i8")))
    assert masked.key != short.key


def test_without_a_batch_dimension():
    assert bind(WHOLE, tensor("x", np.zeros((2, 2), "f4"))).rows == 1


@pytest.mark.parametrize(
    ("signature", "tensors", "text"),
    [
        (
            FIXED,
            (A,),
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing "
            "required input(s) ['b']. Please provide all required input(s).",
        ),
        (FIXED, (A, tensor("c", [1])), "unexpected inference input 'c' for model 'm'"),
        (FIXED, (A, B, tensor("c", [1])), "but got 3 inputs for model 'm'. Got input(s) ['c','b','a'], but "),
        (FREE, (), "expected number of inputs between 1 and 2 but got 0 inputs for model 'm'"),
        (FREE, (tensor("mask", [[1]]),), "missing required input(s) ['ids']"),
        (FIXED, (A, A), "input 'a' already exists in request"),
        (
            FIXED,
            (A, tensor("b", np.zeros(2, "i4"))),
            "inference input 'b' data-type is 'INT32', but model 'm' expects 'INT64'",
        ),
        (
            FIXED,
            (tensor("b", np.zeros(2, "i4")), A),
            "inference input 'b' data-type is 'INT32', but model 'm' expects 'INT64'",
        ),
        (
            FIXED,
            (tensor("a", np.zeros((2, 4), "f4")), B),
            "unexpected shape for input 'a' for model 'm'. Expected [-1,3], got [2,4].",
        ),
        (
            FIXED,
            (tensor("a", np.zeros(3, "f4")), B),
            "for more info on max_batch_size. For one row send the shape [1, 3].",
        ),
        (FIXED, (A, tensor("b", np.zeros(3, "i8"))), "batch size does not match"),
        (
            FIXED,
            (tensor("a", np.zeros((0, 3), "f4")), tensor("b", np.zeros(0, "i8"))),
            "inference request batch-size must be >= 1 for 'm'",
        ),
        (FIXED, (A, tensor("b", np.int64(1))), "Expected [-1], got []"),
        (FREE, (tensor("ids", np.zeros((1, 2, 3), "i8")),), "Expected [-1,-1], got [1,2,3]"),
        (WHOLE, (tensor("x", np.zeros((2, 3), "f4")),), "Expected [2,2], got [2,3]"),
        (FIXED, (), "missing required input(s) ['a','b']"),
    ],
)
def test_refusals(signature, tensors, text):
    with pytest.raises(InvalidInput) as caught:
        bind(signature, *tensors)
    assert text in (caught.value.triton or str(caught.value))
    assert caught.value.about == (None if text.startswith("unexpected inference") else "")


@pytest.mark.clause("TR-R30")
def test_a_refusal_says_which_request_it_was():
    """TR-R30: the id is in front, but for names that the model does not have."""
    request = InferRequest("m", (A,), id="q1")
    with pytest.raises(InvalidInput) as caught:
        Admission("m", FIXED).bind(request)
    assert http_fault(caught.value).body.startswith(b'{"error":"expected 2 inputs but got 1')
    assert grpc_status(caught.value).message.startswith("expected 2 inputs but got 1")
    caught.value.in_tritons_words = True
    assert http_fault(caught.value).body.startswith(b'{"error":"[request id: q1] expected 2 inputs but got 1')
    assert grpc_status(caught.value).message.startswith("[request id: q1] expected 2 inputs")
    assert b'"expected 2 inputs' in tfs_fault(caught.value).body


@pytest.mark.parametrize(
    ("signature", "tensors", "text"),
    [
        (
            FIXED,
            (A,),
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], and ['b'] are missing. "
            "It takes: a FP32[-1,3], b INT64[-1]",
        ),
        (
            FIXED,
            (A, B, tensor("c", [1])),
            "expected 2 inputs but got 3 inputs for model 'm'. Got input(s) ['c','b','a']. "
            "It takes: a FP32[-1,3], b INT64[-1]",
        ),
        (
            FIXED,
            (A, tensor("c", [1])),
            "unexpected inference input 'c' for model 'm'. It takes: a FP32[-1,3], b INT64[-1]",
        ),
        (
            FIXED,
            (tensor("a", np.zeros(3, "f4")), B),
            "unexpected shape for input 'a' for model 'm'. Expected [-1,3], got [3]. Axis 0 counts the rows "
            "of the batch. For one row send the shape [1, 3].",
        ),
        (
            WHOLE,
            (tensor("x", np.zeros((2, 3), "f4")),),
            "unexpected shape for input 'x' for model 'm'. Expected [2,2], got [2,3]",
        ),
    ],
)
def test_salvers_own_words(signature, tensors, text):
    with pytest.raises(InvalidInput) as caught:
        bind(signature, *tensors)
    assert str(caught.value) == text


def test_wanted_outputs_keep_their_order_and_must_exist():
    assert bind(FIXED, A, B, outputs=(RequestedOutput("y"),)).outputs == ("y",)
    assert bind(FIXED, A, B, outputs=(RequestedOutput("y"), RequestedOutput("y"))).outputs == ("y",)
    with pytest.raises(InvalidInput, match="unexpected inference output 'z' for model 'm'"):
        bind(FIXED, A, B, outputs=(RequestedOutput("z"),))


class TestFreeShapes:
    """Tensors of any rank, and requests whose shapes the model judges (TensorFlow Serving compares none)."""

    def admission(self, *, batched: bool, judges: bool = True, any_rank: bool = False) -> Admission:
        shape = (-1,) if any_rank else (-1, 1)
        spec = TensorSpec("x", DataType.FP32, shape, any_rank=any_rank)
        return Admission("m", Signature((spec,), (spec,), batched, judges_shapes=judges))

    def ask(self, *shape: int, any_shape: bool = True) -> InferRequest:
        return InferRequest("m", (tensor("x", np.zeros(shape, "f4")),), any_shape=any_shape)

    @pytest.mark.parametrize("shape", [(), (3,), (3, 1), (2, 3, 4)])
    def test_any_rank_takes_all(self, shape: tuple[int, ...]) -> None:
        bound = self.admission(batched=False, any_rank=True).bind(self.ask(*shape, any_shape=False))
        assert (bound.rows, bound.key) == (1, (shape,))

    @pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 3, 4)])
    def test_rows_count_all_the_same(self, shape: tuple[int, ...]) -> None:
        bound = self.admission(batched=True, any_rank=True).bind(self.ask(*shape, any_shape=False))
        assert (bound.rows, bound.key) == (3, (shape[1:],))

    def test_a_scalar_has_no_rows(self) -> None:
        for any_rank in (True, False):
            with pytest.raises(InvalidInput, match="unexpected shape for input 'x'"):
                self.admission(batched=True, any_rank=any_rank).bind(self.ask(any_shape=False))

    @pytest.mark.clause("TF-B1")
    @pytest.mark.parametrize("judges", [True, False])
    def test_what_is_no_batch_is_told_in_tensorflow_servings_words(self, judges: bool) -> None:
        with pytest.raises(InvalidInput) as caught:
            self.admission(batched=True, judges=judges).bind(self.ask())
        assert str(caught.value) == "Batching Run() input tensors must have at least one dimension"
        request = InferRequest("m", (A, tensor("b", np.zeros(3, "i8"))), any_shape=True)
        with pytest.raises(InvalidInput) as caught:
            Admission("m", FIXED).bind(request)
        assert str(caught.value) == "Batching Run() input tensors must have equal 0th-dimension size"

    def test_a_model_may_judge_by_itself_if_it_is_asked_to(self) -> None:
        admission = self.admission(batched=True)
        assert admission.bind(self.ask(3)).key != admission.bind(self.ask(3, 1)).key
        with pytest.raises(InvalidInput, match=r"Expected \[-1,1\], got \[3\]"):
            admission.bind(self.ask(3, any_shape=False))
        with pytest.raises(InvalidInput, match=r"Expected \[-1,1\], got \[3\]"):
            self.admission(batched=True, judges=False).bind(self.ask(3))
