"""Statistics of a pipeline's edges: what is kept, and how it differs from the training data."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_graphs import planned

import salver.pipelines
from salver.features.pipelines.locking import read_lock
from salver.features.pipelines.pipeline_views import viewed
from salver.features.pipelines.served import PipelineLoader
from salver.features.pipelines.statistics import (
    KEPT,
    MOST_OF_REQUEST,
    EdgeStatistics,
    Summary,
    compared,
    sampled,
)
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import DataType, tensor

TOML = """
[inputs]
x = "FP32[-1,3]"
[steps.chances]
use = "softmax"
[steps.best]
use = "arg-max"
[steps.name]
use = "labels"
names = ["ant", "bee", "cat"]
inputs = { index = "best.index" }
[outputs]
name = "name.label"
score = "best.score"
[statistics]
sample = 0.5
"""


def texts(*values: bytes) -> np.ndarray:
    return np.array([*values, None], object)[:-1]


def summary_of(values, reference: Summary | None = None) -> Summary:
    edge = EdgeStatistics(DataType.FP64)
    edge.add(np.asarray(values, np.float64))
    return edge.summary(reference)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(0, 5))
def test_numbers_are_summed_up_as_numpy_does(values, missing) -> None:
    found = summary_of([*values, *[np.nan] * missing])
    assert found.values == len(values) + missing and found.nulls == pytest.approx(missing / found.values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6, rel=1e-9)
    assert found.sd == pytest.approx(np.std(values), abs=1e-3, rel=1e-6)
    assert (found.least, found.most) == (min(values), max(values))
    assert sum(found.shares) == pytest.approx(1) and len(found.shares) == len(found.bounds) + 1
    again = summary_of(values, found)
    assert again.bounds == found.bounds and again.shares == found.shares


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    edge = EdgeStatistics(DataType.INT64)
    for value in range(40):
        edge.add(sampled(np.full(100 * MOST_OF_REQUEST, value)))
    found = edge.summary()
    assert (found.requests, found.values, found.least) == (40, KEPT, 40 - KEPT / MOST_OF_REQUEST)
    assert edge.summary(Summary()).shares == (1.0,)
    assert len(sampled(np.zeros((3, 1000)))) <= MOST_OF_REQUEST and len(sampled(np.zeros(7))) == 7
    assert EdgeStatistics(DataType.FP32).summary() == Summary()


def test_a_text_is_shown_only_where_it_is_frequent() -> None:
    edge = EdgeStatistics(DataType.BYTES)
    edge.add(texts(*[b"pro"] * 5, *[b"free"] * 4, b"", b"ann@example.com"))
    found = edge.summary()
    assert found.top == {"pro": pytest.approx(5 / 11)} and found.nulls == pytest.approx(1 / 11)
    assert found.most == 15


def test_a_difference_is_notable_where_it_is_one() -> None:
    chance = np.random.default_rng(7)
    there = summary_of(chance.normal(size=4000))
    same = compared(there, summary_of(chance.normal(size=1000), there))
    moved = compared(there, summary_of(chance.normal(0.8, size=1000), there))
    gaps = compared(there, summary_of([*chance.normal(size=900), *[np.nan] * 100], there))
    assert same is not None and moved is not None and gaps is not None
    assert same.psi < 0.05 and not same.is_notable
    assert moved.psi > 0.4 and moved.is_notable
    assert gaps.psi < 0.05 and gaps.nulls == pytest.approx(0.1) and gaps.is_notable
    assert compared(there, summary_of([1.0] * 20, there)) is None
    # The index by its formula: 0.6, 0.4 towards 0.5, 0.5.
    halves = Summary(values=1000, bounds=(0.5,), shares=(0.5, 0.5))
    other = compared(halves, summary_of([0] * 600 + [1] * 400, halves))
    assert other is not None and other.psi == pytest.approx(0.1 * np.log(1.2) + 0.1 * np.log(1.25))


def test_categories_count_beside_lengths() -> None:
    there, here = EdgeStatistics(DataType.BYTES), EdgeStatistics(DataType.BYTES)
    there.add(texts(*[b"pro"] * 150, *[b"max"] * 150))
    here.add(texts(*[b"pro"] * 270, *[b"max"] * 30))
    reference = there.summary()
    found = compared(reference, here.summary(reference))
    assert found is not None and found.psi > 0.2 and found.is_notable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[statistics]\nsample = 2", "`sample` of [statistics] is a part from 0 to 1"),
        (
            "[statistics]\nsamples = 0.5",
            "unknown key `samples` of [statistics] (at statistics.samples). Did you mean `sample`?",
        ),
    ],
)
def test_a_wrong_table_is_refused(text: str, said: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        planned(f'[steps.a]\nmodel = "four"\n{text}\n')
    assert said in str(caught.value)


class NoModels:
    """Inner client without models."""

    def hold(self, models):
        return self

    def release(self):
        pass


async def test_a_server_compares_its_requests_with_the_training_data(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(TOML)
    chance = np.random.default_rng(3)
    with salver.pipelines.load(tmp_path) as pipeline:
        digest = pipeline.lock({"x": chance.normal(size=(1000, 3))})
        assert pipeline.lock() == digest  # and keeps the statistics
    lock = read_lock(tmp_path)
    assert lock is not None and set(lock.statistics["name.label"].top) == {"ant", "bee", "cat"}

    loader = PipelineLoader(NoModels(), None, lambda event: None, time.monotonic)  # type: ignore[arg-type]
    servable = await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline"))
    engine = servable.engine
    for row in range(200):
        x = chance.normal(size=(16, 3)).astype(np.float32)  # a busy machine samples few requests
        x[:, 0] += 3  # nearly all are ants
        await servable.infer(InferRequest("p", (tensor("x", x),)))
        if row % 20 == 0:  # samples are added on a thread
            await asyncio.sleep(0)
    while engine.watch._waiting or engine.watch._is_adding:
        await asyncio.sleep(0.001)
    view = viewed(engine)
    await servable.close()
    assert (view.digest, view.requests, view.is_sampled) == (digest, 200, True)
    edges = {edge.name: edge for edge in view.edges}
    assert set(edges) == {"x", "chances.scores", "best.index", "best.score", "name.label"}
    assert all(0 < edge.requests <= 100 for edge in edges.values())
    assert edges["x"].is_notable and edges["name.label"].is_notable and edges["best.index"].mean < 0.5
    assert edges["x"].requests + engine.watch.left_out == 100
    steps = {step.name: step for step in view.steps}
    assert [steps[name].runs for name in ("chances", "best", "name")] == [200, 200, 200]
    assert all(step.seconds > 0 and not step.failures for step in view.steps)
