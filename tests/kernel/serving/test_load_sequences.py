"""From a folder to an engine of sequences: one runner an instance, and what an owner reads when it fails."""

import os
import time
from pathlib import Path

import pytest

from salver.backends.protocol import Traits
from salver.backends.python import PythonBackend
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.turns import ResourcePool
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.kernel.serving.sequences import load_sequences
from salver.words.artifacts import Control, Instances, Manifest, ModelConfig, RateLimit, Sequences
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

PIDS = """
import os
import numpy as np
class Model:
    inputs = {"x": ("INT64", [-1, 1]), "START": ("INT32", [-1, 1])}
    outputs = {"pid": ("INT64", [-1, 1])}
    def predict(self, inputs):
        return {"pid": np.full(inputs["x"].shape, os.getpid())}
"""
START = Sequences("direct", controls=(Control("START", "start"),))


def manifest(folder: Path, sequences=START, **config) -> Manifest:
    path = folder / "model.py"
    path.write_text(PIDS)
    instances = config.pop("instances", Instances(count=2))
    whole = ModelConfig(sequences=sequences, instances=instances, **config)
    return Manifest(ModelId("m", "1"), path, "python", "python", whole)


def loader(**terms) -> Loader:
    return Loader({"python": PythonBackend()}, Bus(), time.monotonic, Terms(cores=2, **terms))


@pytest.mark.clause("TR-S4")
async def test_each_instance_has_its_own_sequences(tmp_path: Path):
    servable = await loader().load(manifest(tmp_path))
    try:
        assert [spec.name for spec in servable.signature.inputs] == ["x"]
        seen: dict[int, set[int]] = {}
        for step in range(3):
            for id in (1, 2, 3, 4):
                parameters = {"sequence_id": id, "sequence_start": step == 0}
                request = InferRequest("m", (tensor("x", [[1]]),), parameters=parameters)
                answer = await servable.infer(request)
                seen.setdefault(id, set()).add(answer.outputs[0].array.item())
        assert all(len(pids) == 1 for pids in seen.values())
        assert len(set.union(*seen.values())) == 2
        assert os.getpid() not in set.union(*seen.values())
    finally:
        await servable.close()


@pytest.mark.parametrize(
    ("sequences", "config", "terms", "words"),
    [
        (START, {"response_cache": True}, {}, "Response Cache does not currently support model m"),
        (Sequences("direct", controls=(Control("END", "end"),)), {}, {}, "need the input 'END' of INT32"),
        (
            START,
            {"instances": Instances(count=1, rate_limits=(RateLimit(1, {"r": 3}),))},
            {"pool": ResourcePool({"r": 2})},
            "minimum required count is 3",
        ),
    ],
)
async def test_what_cannot_be_loaded_says_why(tmp_path: Path, sequences, config, terms, words):
    with pytest.raises(LoadFailed, match=words):
        await loader(**terms).load(manifest(tmp_path, sequences, **config))


class Opened:
    signature = Signature((TensorSpec("x", DataType.INT64, (-1, 1)),), (), batched=True)
    slots = 1
    is_closed = False

    async def close(self):
        self.is_closed = True


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_an_instance_that_fails_closes_those_before_it(tmp_path: Path, kind):
    opened: list[Opened] = []

    async def open_runner(instance):
        if instance == 2:
            raise LoadFailed("no third")
        opened.append(Opened())
        return opened[-1]

    found, traits = manifest(tmp_path), Traits(concurrent=False)
    with pytest.raises(LoadFailed, match="no third"):
        await load_sequences(found, traits, Placement(kind, 3, 1), open_runner, time.monotonic, print)
    assert [runner.is_closed for runner in opened] == [True, True]


async def test_instances_that_share_a_model_share_a_runner(tmp_path: Path):
    asked = []

    async def open_runner(instance):
        asked.append(instance)
        return Opened()

    found = manifest(tmp_path, Sequences("direct"))
    place = Placement("thread", 3, 1)
    engine = await load_sequences(found, Traits(), place, open_runner, time.monotonic, print)
    assert asked == [None]
    (runner,) = engine.runners
    await engine.close()
    assert runner.is_closed
