"""Several signatures of one model: a queue for each, one runner, and nothing of it for models with one."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from doubling import ID, SIGNATURE, Doubler, request
from waiting import auntil

from salver.backends.protocol import SIGNATURE as MARK
from salver.backends.protocol import LoadOptions, Traits
from salver.features.cache.caching import Caching
from salver.features.cache.loading import CacheAttachment
from salver.features.cache.local import local
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.signatures import Signatures, SplitRunner
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Batching, Instances, Manifest, ModelConfig
from salver.words.errors import InvalidInput, NotReady
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

ROOT = Signature(
    (TensorSpec("inputs", DataType.FP32, (-1,)),),
    (TensorSpec("outputs", DataType.FP32, (-1,)),),
    batched=True,
    name="root",
)
COUNT = Signature((), (TensorSpec("runs", DataType.INT64, ()),), name="count", is_stateful=True)


class Several(Doubler):
    """The doubler, which can take roots and count its runs as well."""

    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, True, others=(ROOT, COUNT))

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def run(self, inputs):
        mark = inputs.get(MARK)
        if mark is None:
            self.asked.append(f"double {len(inputs['x'])}")
            return super().run(inputs)
        signature = self.signature.others[int(mark)]
        self.asked.append(signature.name)
        if signature is COUNT:
            return {"runs": np.array(self.asked.count("count"))}
        x = inputs["inputs"]
        if (x < 0).any():
            raise InvalidInput("negative")
        self.asked[-1] += f" {len(x)}"
        return {"outputs": np.sqrt(x)}


class Rig:
    def __init__(self, slots: int = 1) -> None:
        self.model = Several()
        runner = ThreadRunner([self.model], Traits(), slots=slots, name="m")
        clock, config, self.events = time.monotonic, ModelConfig(), []
        self.first = Engine(ID, runner, config, clock=clock, emit=self.events.append)
        self.all = Signatures.of(self.first, runner, config, clock, self.events.append)
        self.infer = self.all.infer

    async def __aenter__(self) -> "Rig":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.all.close()
        await self.first.close()


def root(*values: float) -> InferRequest:
    return InferRequest("m", (tensor("inputs", np.array(values, "f4")),), signature="root")


COUNTING = InferRequest("m", (), signature="count")


async def test_answers_through_callbacks_are_those_of_the_signature() -> None:
    async with Rig() as rig:
        told: list[object] = []
        for asked in (request(4.0), root(4.0), COUNTING):
            rig.all.post(asked, None, lambda answer, _: told.append(answer))
        await auntil(lambda: len(told) == 3)
        answers = [answer.outputs[0].array.ravel().tolist() for answer in told]  # type: ignore[attr-defined]
        assert answers == [(await rig.infer(request(4.0))).outputs[0].array.ravel().tolist(), [2.0], [1]]
        with pytest.raises(InvalidInput, match="Serving signature key"):
            rig.all.post(
                InferRequest("m", (), signature="absent"), None, lambda answer, _: told.append(answer)
            )
        assert len(told) == 3


@pytest.mark.clause("TF-B1")
async def test_each_signature_answers_and_batches_by_itself() -> None:
    async with Rig() as rig:
        rig.model.gate = threading.Event()
        first = asyncio.ensure_future(rig.infer(request(1.0)))
        await auntil(lambda: rig.model.asked)  # it runs, and is held up: the others wait for it
        asked = [rig.infer(r) for r in (root(4), request(2.0), root(9, 16), COUNTING, request(3.0, rows=2))]
        waiting = asyncio.gather(*asked)
        for _ in range(20):
            await asyncio.sleep(0)  # they come in
        rig.model.gate.set()
        answers = [await first, *await waiting]
        values = [answer.outputs[0].array.ravel().tolist() for answer in answers]
        assert values == [[2, 2], [2], [4, 4], [3, 4], [1], [6, 6, 6, 6]]
        assert rig.model.asked[0] == "double 1"
        assert sorted(rig.model.asked[1:]) == ["count", "double 3", "root 3"]
        assert sum(event.rows for event in rig.events) == 8


async def test_the_first_one_has_a_name_too() -> None:
    async with Rig() as rig:
        named = await rig.infer(request(1.0, signature="serving_default"))
        assert named.outputs[0].array.tolist() == [[2, 2]]


async def test_an_unknown_name_is_refused() -> None:
    async with Rig() as rig:
        with pytest.raises(InvalidInput, match='Serving signature key "roots" not found') as refused:
            await rig.infer(request(1.0, signature="roots"))
        assert "There are: serving_default, root, count" in str(refused.value)


async def test_each_checks_its_own_inputs() -> None:
    async with Rig() as rig:
        with pytest.raises(InvalidInput, match="unexpected inference input 'x'"):
            await rig.infer(request(1.0, signature="root"))
        with pytest.raises(InvalidInput, match="expected 0 inputs but got 1"):
            await rig.infer(request(1.0, signature="count"))


async def test_a_culprit_fails_alone() -> None:
    async with Rig() as rig:
        answers = await asyncio.gather(*map(rig.infer, (root(1), root(-1), root(4))), return_exceptions=True)
        assert [type(a).__name__ for a in answers] == ["InferResponse", "InvalidInput", "InferResponse"]


async def test_more_instances_are_for_all() -> None:
    async with Rig() as rig:
        await rig.first.resize(3)
        await rig.all.resize(3)
        rig.model.gate = threading.Event()
        runs = [asyncio.ensure_future(rig.infer(request(1.0)))]
        await auntil(lambda: rig.model.asked)
        assert (await rig.infer(root(4))).outputs[0].array.tolist() == [2]
        rig.model.gate.set()
        await asyncio.gather(*runs)


async def test_closed_engines_refuse() -> None:
    rig = Rig()
    async with rig:
        await rig.infer(root(1))
    with pytest.raises(NotReady):
        await rig.infer(root(1))
    assert rig.model.is_closed


class SeveralBackend:
    """Loads it, in this process or another."""

    name, extra, modules = "several", "", ()
    traits = Traits()

    def recognise(self, path: Path) -> str | None:
        return "several"

    def load(self, manifest: Manifest, options: LoadOptions) -> Several:
        return Several()


async def loaded(**config: object) -> Servable:
    caching = Caching(local({"size": "1000000"}), time.monotonic)
    additions = Additions(attachments=[CacheAttachment(caching)])
    loader = Loader({"several": SeveralBackend()}, Bus(()), time.monotonic, Terms(2), additions)
    manifest = Manifest(ModelId("m", "1"), Path("m"), "several", "several", ModelConfig(**config))
    servable = await loader.load(manifest)
    await servable.warm(manifest.config)
    return servable


@pytest.mark.parametrize("runner", ["thread", "process"])
async def test_a_loaded_version_answers_by_all(runner: str) -> None:
    servable = await loaded(instances=Instances(runner=runner))
    try:
        assert [engine.signature.name for engine in servable.engines] == ["serving_default", "root", "count"]
        assert (await servable.infer(request(2.0))).outputs[0].array.tolist() == [[4, 4]]
        assert (await servable.infer(root(4, 9))).outputs[0].array.tolist() == [2, 3]
        counted = await servable.infer(COUNTING)
        assert counted.outputs[0].array == 1  # no warm-up has counted
        assert [engine.queued + engine.running for engine in servable.engines] == [0, 0, 0]
    finally:
        await servable.close()


async def test_an_answer_is_kept_for_its_own_signature() -> None:
    servable = await loaded(response_cache=True)
    try:
        twice = [(await servable.infer(root(4))).timing.cache for _ in range(2)]
        assert twice == ["miss", "hit"]
        counted = [int((await servable.infer(COUNTING)).outputs[0].array) for _ in range(2)]
        assert counted == [1, 2]  # a signature with a state is not cached
        with pytest.raises(InvalidInput):
            await servable.infer(InferRequest("m", root(4).inputs))
    finally:
        await servable.close()


async def test_order_is_kept_across_signatures() -> None:
    servable = await loaded(batching=Batching(preserve_order=True))
    try:
        ended: list[str] = []

        async def ask(asked: InferRequest) -> None:
            await servable.infer(asked)
            ended.append(asked.signature)

        await asyncio.gather(*map(ask, (request(1.0), root(1), request(1.0), COUNTING)))
        assert ended == ["", "root", "", "count"]
    finally:
        await servable.close()


async def test_models_with_one_signature_have_nothing_in_between() -> None:
    class Single(SeveralBackend):
        def load(self, manifest: Manifest, options: LoadOptions) -> Doubler:
            return Doubler()

    loader = Loader({"several": Single()}, Bus(()), time.monotonic, Terms(2))
    servable = await loader.load(Manifest(ModelId("m", "1"), Path("m"), "several", "several", ModelConfig()))
    try:
        assert servable.infer == servable.engine.infer and servable.signatures is None
    finally:
        await servable.close()


async def test_signatures_may_be_run_by_different_runners() -> None:
    models = Several(), Several()
    runners = [ThreadRunner([model], Traits(native=True), slots=1, name="m") for model in models]
    split = SplitRunner(Several.signature, [runners[0], runners[1], runners[1]])
    clock = time.monotonic
    first = Engine(ID, split, ModelConfig(), clock=clock, emit=lambda event: None)
    whole = Signatures.of(first, split, ModelConfig(), clock, lambda event: None)
    for asked in (request(1.0), root(4), COUNTING, request(1.0)):
        await whole.infer(asked)
    await whole.close()
    await first.close()
    assert [model.asked for model in models] == [["double 1", "double 1"], ["root 1", "count"]]
    assert all(model.is_closed for model in models)
