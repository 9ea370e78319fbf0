"""Rules of Classify and Regress for signatures and answers, with all error texts."""

import numpy as np
import pytest

from salver.dialects.tensorflow.heads import CLASSIFY, REGRESS, classes_in, head_of, outputs_of, values_in
from salver.words.errors import FailedPrecondition, InvalidInput, SalverError, Unsupported
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType, Tensor, tensor

_EXAMPLES = TensorSpec("inputs", DataType.BYTES, (-1,))


def _spec(name: str, datatype: DataType = DataType.FP32) -> TensorSpec:
    return TensorSpec(name, datatype, (-1, -1))


def _head(*outputs: str, inputs: tuple[TensorSpec, ...] = (_EXAMPLES,), method: str = CLASSIFY) -> Signature:
    return Signature(inputs, tuple(map(_spec, outputs)), name="head", method=method)


@pytest.mark.clause("TF-R32")
def test_signatures_are_found_by_name() -> None:
    head = _head("scores")
    whole = Signature((), (), others=(head,))
    assert head_of(whole, "head") is head
    assert head_of(whole, "").name == "serving_default"
    with pytest.raises(InvalidInput) as raised:
        head_of(head, "")
    assert str(raised.value) == "No signature was found with the name: serving_default"


@pytest.mark.clause("TF-G8")
@pytest.mark.parametrize(
    ("head", "method", "wanted"),
    [
        (_head("scores"), CLASSIFY, ("scores",)),
        (_head("classes"), CLASSIFY, ("classes",)),
        (_head("scores", "classes"), CLASSIFY, ("classes", "scores")),
        (_head("other", "scores"), CLASSIFY, ("scores",)),
        (_head("outputs"), REGRESS, ("outputs",)),
    ],
)
def test_outputs(head: Signature, method: str, wanted: tuple[str, ...]) -> None:
    assert outputs_of(head, method) == wanted


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("head", "method", "kind", "text"),
    [
        (_head("scores", inputs=()), CLASSIFY, InvalidInput, "Expected one input Tensor."),
        (
            _head("outputs", inputs=(_EXAMPLES, _spec("x"))),
            REGRESS,
            InvalidInput,
            "Expected one input Tensor.",
        ),
        (_head("a", "b", "c"), CLASSIFY, InvalidInput, "Expected one or two output Tensors, found 3"),
        (_head(), CLASSIFY, InvalidInput, "Expected one or two output Tensors, found 0"),
        (_head("outputs", "more"), REGRESS, InvalidInput, "Expected one output Tensor."),
        (
            _head("scores", inputs=(_spec("x"),)),
            CLASSIFY,
            FailedPrecondition,
            "No classification inputs found in SignatureDef: ",
        ),
        (
            _head("outputs", inputs=(_spec("x"),)),
            REGRESS,
            FailedPrecondition,
            "No regression inputs found in SignatureDef: ",
        ),
        (_head("y"), REGRESS, FailedPrecondition, "No regression outputs found in SignatureDef: "),
        (
            _head("y"),
            CLASSIFY,
            FailedPrecondition,
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: ",
        ),
        (
            _head("scores", inputs=(_spec("inputs"),)),
            CLASSIFY,
            InvalidInput,
            "Expects arg[0] to be float but string is provided",
        ),
        (
            _head("y"),
            "tensorflow/serving/predict",
            Unsupported,
            "Unsupported signature method_name: tensorflow",
        ),
    ],
)
def test_signatures_that_do_not_fit(head: Signature, method: str, kind: type[SalverError], text: str) -> None:
    with pytest.raises(kind) as raised:
        outputs_of(head, method)
    assert type(raised.value) is kind
    assert str(raised.value).startswith(text)


@pytest.mark.clause("TF-F19")
@pytest.mark.parametrize(
    ("method", "text"),
    [
        (
            CLASSIFY,
            "Expected classification signature method_name to be tensorflow/serving/classify. Was: other",
        ),
        (REGRESS, "Expected regression signature method_name to be tensorflow/serving/regress. Was: other"),
    ],
)
def test_the_signatures_method_is_checked_if_wished(method: str, text: str) -> None:
    output = "scores" if method == CLASSIFY else "outputs"
    head = _head(output, method="other")
    assert outputs_of(head, method) == (output,)
    with pytest.raises(InvalidInput) as raised:
        outputs_of(head, method, checks_method=True)
    assert str(raised.value) == text
    assert outputs_of(_head(output, method=method), method, checks_method=True)


_LABELS = tensor("classes", [["a", "b"], ["c", "d"]])
_SCORES = tensor("scores", np.array([[1, 2], [3, 4]], np.float32))


@pytest.mark.clause("TF-G8")
def test_classes_and_scores() -> None:
    found = classes_in((_SCORES, _LABELS), 2)
    assert found.labels is _LABELS.array
    assert found.scores is _SCORES.array
    assert classes_in((_SCORES,), 2).labels is None
    assert classes_in((_LABELS,), 2).scores is None


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (
            [tensor("scores", np.zeros(2, np.float32))],
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        (
            [tensor("classes", np.full((2, 1, 1), b""))],
            "Expected Tensor shape: [batch_size num_classes] but got [2,1,1]",
        ),
        ([tensor("scores", np.zeros((2, 1)))], "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        (
            [tensor("classes", np.zeros((2, 1), np.int64))],
            "Expected classes Tensor of DT_STRING. Got: DT_INT64",
        ),
        (
            [tensor("scores", np.zeros((3, 1), np.float32))],
            "Expected scores output batch size of 2. Got: 3",
        ),
        (
            [_LABELS, tensor("scores", np.zeros((2, 3), np.float32))],
            "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        ),
    ],
)
def test_answers_that_are_no_classes(outputs: list[Tensor], text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        classes_in(outputs, 2)
    assert str(raised.value) == text


@pytest.mark.clause("TF-G8")
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_values(shape: tuple[int, ...]) -> None:
    values = np.array([1.5, -2], np.float32)
    assert values_in([tensor("outputs", values.reshape(shape))], 2).tolist() == [1.5, -2]


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("output", "text"),
    [
        (tensor("y", np.zeros(2, np.float32)), "Could not find output tensor 'outputs'"),
        (
            tensor("outputs", np.zeros((2, 2), np.float32)),
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (
            tensor("outputs", np.zeros((), np.float32)),
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got []",
        ),
        (
            tensor("outputs", np.zeros(3, np.float32)),
            "Input batch size did not match output batch size: 2 vs. 3",
        ),
        (tensor("outputs", np.zeros(2)), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)
def test_answers_that_are_no_values(output: Tensor, text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        values_in([output], 2)
    assert str(raised.value) == text
