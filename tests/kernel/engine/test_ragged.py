"""Ragged batches: requests of different shapes share a run, and each gets what is its own (TR-S3, TR-C6)."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import write_ragged

from salver.backends import reshaped
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.admission import Admission
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.ragged import RaggedBatch, described
from salver.kernel.engine.thread import ThreadRunner
from salver.words.artifacts import Batching, BatchInput, Manifest, ModelConfig, Ragged
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

FP32, INT32 = DataType.FP32, DataType.INT32
SHAPES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=6
)  # rows, and two extents


@pytest.mark.clause("TR-C6")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("element_count", [6, 4]),
        ("accumulated_element_count", [6, 10]),
        ("accumulated_element_count_with_zero", [0, 6, 10]),
        ("max_element_count_as_shape", [0] * 6),
        ("item_shape", [[3, 1], [3, 1], [2, 2]]),
        ("item_shape_flatten", [3, 1, 3, 1, 2, 2]),
    ],
)
@pytest.mark.parametrize("datatype", [INT32, FP32])
def test_what_a_model_is_told_of_a_run(kind: str, expected: list[object], datatype: DataType) -> None:
    """The example of Triton's own schema: a batch of 2 of [3, 1], and one of [2, 2]."""
    extra = BatchInput(kind, "T", datatype, "X")  # type: ignore[arg-type]
    said = described(extra, [(2, 3, 1), (1, 2, 2)])
    assert said.dtype == datatype.dtype
    assert said.tolist() == expected


@pytest.mark.clause("TR-S3")
@settings(max_examples=100)
@given(SHAPES)
def test_what_was_put_together_comes_apart_unswapped(shapes: list[tuple[int, int, int]]) -> None:
    signature = Signature(
        (TensorSpec("X", FP32, (-1, -1, -1)), TensorSpec("S", INT32, (-1, 2))),
        (
            TensorSpec("Y", FP32, (-1, -1, -1)),
            TensorSpec("Z", FP32, (-1, 1, -1)),
            TensorSpec("N", INT32, (-1, 2)),
        ),
        batched=True,
    )
    config = Ragged(("X",), (BatchInput("item_shape", "SHAPES", INT32, "X"),), {"Y": "X"})
    batch = RaggedBatch(config, signature, "m")
    requests: list[tuple[list[Array | None], int]] = []
    for number, shape in enumerate(shapes):
        x = np.arange(np.prod(shape), dtype="f4").reshape(shape) + 1000 * number
        requests.append(([x, np.full((shape[0], 2), number, "i4")], shape[0]))
    inputs = batch.gather([arrays for arrays, _ in requests])
    rows = sum(shape[0] for shape in shapes)
    assert inputs["X"].ndim == 1 and inputs["S"].shape == (rows, 2)
    assert inputs["SHAPES"].tolist() == [list(shape[1:]) for shape in shapes for _ in range(shape[0])]
    outputs = {"Y": inputs["X"] * 2, "N": inputs["S"], "Z": np.zeros((rows, 1, 3), "f4")}
    batch.check(outputs, [arrays for arrays, _ in requests])
    for (arrays, _), part in zip(requests, batch.scatter(outputs, requests), strict=True):
        x, mine = arrays
        assert x is not None
        np.testing.assert_array_equal(part["Y"], x * 2)
        np.testing.assert_array_equal(part["N"], mine)
        assert part["Z"].shape == (x.shape[0], 1, 3)
    if rows and inputs["X"].size:
        with pytest.raises(ModelFailed, match="'Y'"):
            batch.check(outputs | {"Y": inputs["X"][1:]}, [arrays for arrays, _ in requests])


@pytest.mark.clause("TR-C6")
def test_free_extents_of_a_scattered_output_are_the_inputs() -> None:
    signature = Signature(
        (TensorSpec("X", FP32, (-1, -1)),), (TensorSpec("Y", FP32, (-1, -1, 2)),), batched=True
    )
    batch = RaggedBatch(Ragged(("X",), (), {"Y": "X"}), signature, "m")
    requests: list[tuple[list[Array | None], int]] = [([np.ones((1, n), "f4")], 1) for n in (3, 1)]
    parts = batch.scatter({"Y": np.arange(8, dtype="f4")}, requests)
    assert [part["Y"].shape for part in parts] == [(1, 3, 2), (1, 1, 2)]


@pytest.mark.clause("TR-C4")
def test_only_ragged_inputs_may_differ_within_a_run() -> None:
    signature = Signature(
        (TensorSpec("R", FP32, (-1, -1)), TensorSpec("S", FP32, (-1, -1), optional=True)), (), batched=True
    )
    admission = Admission("m", signature, {0})

    def key(r: int, s: int | None) -> object:
        given = [tensor("R", np.ones((1, r), "f4"))]
        if s is not None:
            given.append(tensor("S", np.ones((1, s), "f4")))
        return admission.bind(InferRequest("m", tuple(given))).key

    assert key(3, 2) == key(5, 2)
    assert key(3, 2) != key(3, 4)
    assert key(3, 2) != key(3, None)


# -- a real model -----------------------------------------------------------------------------------

#: R and ENDS come in; DOUBLE is R twice, flat; TOTAL has a row a request.
CONFIG = ModelConfig(
    backend="onnx",
    inputs=(TensorSpec("R", FP32, (-1, -1)),),
    outputs=(TensorSpec("DOUBLE", FP32, (-1, -1)), TensorSpec("TOTAL", FP32, (-1, 1))),
    ragged=Ragged(("R",), (BatchInput("accumulated_element_count", "ENDS", FP32, "R"),), {"DOUBLE": "R"}),
    batching=Batching(max_rows=8),
)


def manifest(tmp_path: Path, config: ModelConfig = CONFIG) -> Manifest:
    return Manifest(ModelId("m", "1"), write_ragged(tmp_path / "model.onnx"), "onnx", "onnx", config)


class Rig:
    """An engine around the model, on which requests of one turn of the loop share a run."""

    def __init__(self, made: Manifest) -> None:
        self.events: list[BatchRan] = []
        model = reshaped.load(OnnxBackend(), made, LoadOptions())
        runner = ThreadRunner([model], Traits(native=True), slots=1, name="m")
        loop = asyncio.get_running_loop()
        self.engine = Engine(made.id, runner, made.config, clock=loop.time, emit=self.events.append)

    async def ask(self, values: list[float], rows: int = 1) -> InferResponse:
        array = np.array(values, "f4").reshape(rows, -1)
        return await self.engine.infer(InferRequest("m", (tensor("R", array),)))


@pytest.mark.clause("TR-S3")
async def test_requests_of_any_length_share_a_run_of_a_real_model(tmp_path: Path) -> None:
    rig = Rig(manifest(tmp_path))
    asked = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]
    answers = await asyncio.gather(*map(rig.ask, asked))
    await rig.engine.close()
    assert [event.requests for event in rig.events] == [3]
    assert [a.outputs[0].array.tolist() for a in answers] == [[[2 * x for x in values]] for values in asked]
    assert [a.outputs[1].array.tolist() for a in answers] == [[[3]], [[4]], [[6]]]


@pytest.mark.clause("TR-C6")
async def test_callers_do_not_see_what_the_model_is_told(tmp_path: Path) -> None:
    rig = Rig(manifest(tmp_path))
    assert [spec.name for spec in rig.engine.signature.inputs] == ["R"]
    assert [spec.shape for spec in rig.engine.signature.outputs] == [(-1, -1), (-1, 1)]
    (outputs,) = await rig.engine.run_alone({"R": np.ones((1, 3), "f4")})
    assert outputs["DOUBLE"].shape == (3,)
    await rig.engine.close()


async def test_an_output_without_a_row_for_each_row_fails_that_request_alone(tmp_path: Path) -> None:
    """TOTAL has a row a request; two rows in one request have no answer in it."""
    rig = Rig(manifest(tmp_path))
    good, bad = await asyncio.gather(rig.ask([1.0]), rig.ask([1.0, 2.0], rows=2), return_exceptions=True)
    await rig.engine.close()
    assert isinstance(good, InferResponse) and good.outputs[1].array.tolist() == [[1]]
    assert isinstance(bad, ModelFailed) and "TOTAL" in str(bad)


@pytest.mark.clause("TR-C6")
def test_a_target_that_the_model_does_not_have_is_told_at_load(tmp_path: Path) -> None:
    extra = (BatchInput("element_count", "COUNTS", FP32, "R"),)
    config = ModelConfig(inputs=CONFIG.inputs, ragged=Ragged(("R",), extra))
    with pytest.raises(LoadFailed, match="no 'COUNTS' among its inputs"):
        reshaped.load(OnnxBackend(), manifest(tmp_path, config), LoadOptions())
