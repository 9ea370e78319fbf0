"""What fills a run up is never seen in an answer."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.padding import PaddedRunner, filled, joined, rounded
from salver.kernel.engine.waiting import QueuedRequest
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import InvalidInput, LoadFailed, Overloaded
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

SIZES = st.lists(st.integers(1, 40), unique=True).map(sorted)


@given(st.integers(1, 50), SIZES)
def test_the_size_is_the_least_that_fits(rows: int, sizes: list[int]) -> None:
    size = rounded(rows, sizes)
    fitting = [s for s in sizes if s >= rows]
    assert size == (min(fitting) if fitting else rows)


@given(st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_rows_are_filled_with_the_first_one(rows: int, more: int, is_text: bool) -> None:
    array: Array = np.arange(rows * 3).reshape(rows, 3).astype(object if is_text else np.float32)
    found = filled({"x": array}, rows + more)["x"]
    assert found.dtype == array.dtype
    assert np.array_equal(found[:rows], array)
    assert all(np.array_equal(row, array[0]) for row in found[rows:])


SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=5)


@given(SHAPES)
def test_arrays_keep_their_elements_and_are_filled_with_their_first(
    shapes: list[tuple[int, int, int]],
) -> None:
    parts = [np.arange(np.prod(s), dtype=np.int64).reshape(s) + 100 * n for n, s in enumerate(shapes, 1)]
    whole = joined(parts)
    assert whole.shape == (sum(s[0] for s in shapes), *(max(s[d] for s in shapes) for d in (1, 2)))
    start = 0
    for part in parts:
        mine = whole[start : start + part.shape[0]]
        inside = np.zeros(mine.shape, bool)
        inside[(slice(None), *map(slice, part.shape[1:]))] = True
        assert np.array_equal(mine[inside], part.ravel())
        assert set(mine[~inside].tolist()) <= {part.flat[0] if part.size else 0}
        start += part.shape[0]


def test_texts_are_joined_too() -> None:
    one, two = np.array([[b"a", b"b"]], object), np.array([[b"c"]], object)
    assert joined([one, two]).tolist() == [[b"a", b"b"], [b"c", b"c"]]
    assert joined([one, np.empty((1, 0), object)]).tolist() == [[b"a", b"b"], [b"", b""]]


def signature(shape: tuple[int, ...]) -> Signature:
    spec = TensorSpec("x", DataType.FP32, shape)
    return Signature((spec,), (renamed(spec, "y"), renamed(spec, "n")), batched=True)


def renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, spec.datatype, spec.shape if name == "y" else (-1,))


class Doubling:
    """y = 2 x, and n = the rows of the run in each of its rows."""

    def __init__(self, shape: tuple[int, ...] = (-1, 2), inline: bool = False) -> None:
        self.signature = signature(shape)
        self.slots = 1
        self.rows: list[int] = []
        self.inline = inline

    def _ran(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        x = inputs["x"]
        self.rows.append(len(x))
        return {"y": 2 * x, "n": np.full(len(x), len(x), np.float32)}, 0.0

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        await asyncio.sleep(0)
        return self._ran(inputs)

    def run_inline(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float] | None:
        return self._ran(inputs) if self.inline else None

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        return [self._ran(inputs)[0]]

    async def close(self) -> None:
        pass


def engine(runner: Doubling, events: list[BatchRan], **batching: object) -> Engine:
    config = ModelConfig(batching=Batching(**batching))  # type: ignore[arg-type]
    return Engine(
        ModelId("m", "1"), runner, config, clock=asyncio.get_running_loop().time, emit=events.append
    )


async def ask(served: Engine, array: Array) -> dict[str, Array]:
    answer = await served.infer(InferRequest("m", (tensor("x", array),)))
    return {t.name: t.array for t in answer.outputs}


@pytest.mark.clause("TF-B1")
@pytest.mark.parametrize("inline", [False, True])
async def test_batches_have_the_allowed_sizes_and_answers_do_not_show_it(inline: bool) -> None:
    runner, events = Doubling(inline=inline), list[BatchRan]()
    served = engine(runner, events, max_rows=8, sizes=(4, 8))
    arrays = [np.full((rows, 2), rows, np.float32) for rows in (1, 2, 3, 4, 5)]
    answers = await asyncio.gather(*(ask(served, array) for array in arrays))
    for array, answer in zip(arrays, answers, strict=True):
        assert np.array_equal(answer["y"], 2 * array)
        assert set(answer["n"].tolist()) <= {4.0, 8.0}
        assert len(answer["n"]) == len(array)
    assert set(runner.rows) <= {4, 8}
    assert [e.rows + e.padding for e in events] == runner.rows
    assert sum(e.rows for e in events) == 15
    warm = await served.run_alone({"x": np.zeros((1, 2), np.float32)})
    assert warm[0]["y"].shape == (1, 2)
    await served.close()


@pytest.mark.clause("TF-B1")
async def test_large_requests_are_cut_or_refused() -> None:
    runner, events = Doubling(), list[BatchRan]()
    served = engine(runner, events, max_rows=4, max_request_rows=9, sizes=(2, 4))
    array = np.arange(18, dtype=np.float32).reshape(9, 2)
    assert np.array_equal((await ask(served, array))["y"], 2 * array)
    assert set(runner.rows) <= {2, 4}
    with pytest.raises(InvalidInput, match=r"^Task size 10 is larger than maximum input batch size 9$"):
        await ask(served, np.zeros((10, 2), np.float32))
    await served.close()


@pytest.mark.clause("TF-B1")
async def test_inputs_of_different_lengths_share_a_run_where_that_is_wanted() -> None:
    short, long = np.ones((1, 1), np.float32), np.arange(3, dtype=np.float32).reshape(1, 3)
    for pad, runs in ((True, [2]), (False, [1, 1])):
        runner, events = Doubling((-1, -1)), list[BatchRan]()
        served = engine(runner, events, max_rows=8, pad=pad)
        one, two = await asyncio.gather(ask(served, short), ask(served, long))
        assert runner.rows == runs
        assert np.array_equal(two["y"], 2 * long)
        assert one["y"].tolist() == ([[2, 2, 2]] if pad else [[2]])
        await served.close()


@pytest.mark.clause("TF-B1")
@given(st.integers(1, 12), SIZES, st.data())
def test_no_answer_changes_through_filling_up(rows: int, sizes: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(-99, 99), min_size=2 * rows, max_size=2 * rows))
    x = np.array(values, np.float32).reshape(rows, 2)
    runner = Doubling(inline=True)
    outputs, _ = asyncio.run(PaddedRunner(runner, sizes).run({"x": x}))
    now = PaddedRunner(runner, sizes).run_inline({"x": x})
    assert now is not None
    for found in (outputs, now[0]):
        assert np.array_equal(found["y"], 2 * x)
        assert set(found["n"].tolist()) == {float(rounded(rows, sizes))}
    assert runner.rows == [rounded(rows, sizes)] * 2


async def test_a_runner_that_cannot_be_resized_says_so() -> None:
    with pytest.raises(LoadFailed):
        await PaddedRunner(Doubling(), (1, 2)).resize(3)


@pytest.mark.clause("TF-B1")
def test_the_queue_is_bounded_in_rows() -> None:
    batcher = Batcher(Batching(max_rows=4, max_queue_rows=8))
    for rows in (4, 3):
        assert batcher.offer(QueuedRequest(None, rows, None, 0.0)) is None
    with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
        batcher.offer(QueuedRequest(None, 2, None, 0.0))
    assert batcher.offer(QueuedRequest(None, 1, None, 0.0)) is None
    assert batcher.take(0.0).rows == 4
    assert batcher.offer(QueuedRequest(None, 4, None, 0.0)) is None


def test_a_request_larger_than_the_bound_is_taken_by_an_empty_queue() -> None:
    batcher = Batcher(Batching(max_rows=4, max_queue_rows=2))
    assert batcher.offer(QueuedRequest(None, 4, None, 0.0)) is None
