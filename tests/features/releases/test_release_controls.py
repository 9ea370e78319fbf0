"""Versions are unloaded and loaded in a release, by the real clients of Triton and TensorFlow Serving."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from splitting_server import ledgered
from tritonclient.utils import InferenceServerException
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.dialects.tensorflow.config import NamedModels
from salver.features.registry.records import Actor
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import proposed
from salver.kernel.repository import NamedModel
from salver.transport.server import FrontConfig
from salver.words.artifacts import Versions

MODEL = """
import time
import numpy as np
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    if VERSION == 2:
        outputs["more"] = ("FP32", [-1, 1])
    def predict(self, inputs):
        time.sleep(0.005)
        answer = np.full((len(inputs["x"]), 1), VERSION, "f4")
        return {name: answer for name in self.outputs}
"""
#: A long stage of short buckets, by what unloading does not touch.
POLICY = Policy(
    stages=(Stage(0.5, 60), Stage(1.0, 0)),
    metrics=(Metric("errors", "errors", "severe"),),
    warm_up_seconds=0.0,
    bucket_seconds=0.2,
)


class Callers:
    """Ask all the time, by Triton's client.

    Attributes:
        said: Versions that answered, and the errors, with how often since :meth:`come_to_hear` looked.
        failed: All errors.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.said: Counter[str] = Counter()
        self.failed: list[str] = []
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(3)]

    async def _ask(self, number: int) -> None:
        given = triton.InferInput("x", [1, 1], "FP32")
        given.set_data_from_numpy(np.zeros((1, 1), np.float32))
        while True:
            for user in range(40):
                try:
                    said = await self._client.infer("m", [given], headers={"x-user-id": f"{number}-{user}"})
                    self.said[str(int(said.as_numpy("y")[0, 0]))] += 1
                except InferenceServerException as error:
                    self.said[str(error)] += 1
                    self.failed.append(str(error))
                    await asyncio.sleep(0.01)

    async def come_to_hear(self, *wanted: str) -> None:
        """Until answers have been these, or errors with these words, and no others for a while."""

        async def is_so() -> bool:
            self.said.clear()
            await auntil(lambda: self.said.total() >= 60)
            return len(self.said) == len(wanted) and all(any(w in s for s in self.said) for w in wanted)

        await auntil(is_so, lambda: self.said)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class World(NamedTuple):
    """A server with a release of version 2 of ``m``, and its callers.

    Attributes:
        serve: Lets these versions of it be served, and no others; none = takes it out.
    """

    server: Server
    client: Any
    callers: Callers
    serve: Callable[[Sequence[int]], Awaitable[None]]

    async def comes(self, state: str, reason: str = "") -> None:
        store = ledgered(self.server).store

        async def is_so() -> bool:
            release = await store.get("r1")
            return release.state.value == state and release.reason.startswith(reason)

        await auntil(is_so)


async def by_triton(client: Any, versions: Sequence[int]) -> None:
    if versions:
        policy = {"specific": {"versions": versions}}
        await client.load_model("m", config=json.dumps({"version_policy": policy}))
    else:
        await client.unload_model("m")


async def by_tensorflow(channel: grpc.aio.Channel, path: Path, versions: Sequence[int]) -> None:
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    request = model_management_pb2.ReloadConfigRequest()
    listed = request.config.model_config_list.config.add()
    listed.name, listed.base_path, listed.model_platform = (
        "m" if versions else "other",
        str(path),
        "tensorflow",
    )
    listed.model_version_policy.specific.versions.extend(versions or [1])
    said = await model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request)
    assert not said.status.error_code, said


@pytest.fixture(params=["triton", "tensorflow"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    models = tmp_path / "models"
    for version in (1, 2):
        (models / "m" / str(version)).mkdir(parents=True)
        (models / "m" / str(version) / "model.py").write_text(MODEL.replace("VERSION", str(version)))
    (models / "m" / "salver.toml").write_text("[versions]\nall = true\n")
    tables: dict[str, Any] = {"registry": {"ledger": str(tmp_path / "registry")}}
    if request.param == "triton":
        named: dict[str, Any] = {"paths": (str(models),), "control": "explicit", "load": ("m",)}
    else:
        import tensorflow_serving.apis.model_service_pb2_grpc  # noqa: F401 - takes seconds: before callers wait

        place = NamedModel("m", str(models / "m"), Versions(specific=("1", "2")), is_exact=True)
        named = {}
        tables["tensorflow"] = {"served": NamedModels((place,))}
    config = ServeConfig(front=FrontConfig(port=0), tables=tables, **named)
    async with Server(config) as server:
        address = f"127.0.0.1:{server.port}"
        async with (
            triton.InferenceServerClient(address) as client,
            grpc.aio.insecure_channel(address) as channel,
        ):
            serve = partial(by_triton, client)
            if request.param == "tensorflow":
                serve = partial(by_tensorflow, channel, models / "m")
            new = proposed("r1", "m", ("1", "2"), POLICY, time.time())
            await ledgered(server).store.propose(new, Actor("ada"))
            callers = Callers(client)
            world = World(server, client, callers, serve)
            await world.comes("RUNNING")
            yield world
            await callers.stop()


async def test_versions_that_are_taken_out_cost_no_answer_and_their_release_waits_for_them(
    world: World,
) -> None:
    await world.callers.come_to_hear("1", "2")
    for kept, other in ((1, 2), (2, 1)):
        await world.serve([kept])
        await world.comes("HELD", f"no data: version {other} of 'm' is ")
        await world.callers.come_to_hear(str(kept))
        await world.serve([1, 2])
        await world.comes("RUNNING")
        await world.callers.come_to_hear("1", "2")
    assert world.callers.failed == []


async def test_a_model_that_is_taken_out_is_asked_again_when_it_is_back(world: World) -> None:
    await world.serve([])
    await world.comes("HELD", "no data: version 1 of 'm' is not there; version 2 of 'm' is not there")
    await world.callers.come_to_hear("Request for unknown model: 'm'")
    await world.serve([1, 2])
    await world.comes("RUNNING")
    await world.callers.come_to_hear("1", "2")


@pytest.mark.parametrize("world", ["triton"], indirect=True)
async def test_what_is_told_of_a_model_without_a_version_is_of_the_stable_one(world: World) -> None:
    client = world.client
    await world.callers.come_to_hear("1", "2")
    assert list((await client.get_model_metadata("m")).versions) == ["1", "2"]
    for version, outputs in (("", ["y"]), ("1", ["y"]), ("2", ["y", "more"])):
        told = await client.get_model_metadata("m", version)
        assert [each.name for each in told.outputs] == outputs
        config = (await client.get_model_config("m", version)).config
        assert [each.name for each in config.output] == outputs
        assert await client.is_model_ready("m", version)
    stats = (await client.get_inference_statistics("m")).model_stats
    assert [each.version for each in stats] == ["1", "2"]
    assert all(each.inference_count > 0 for each in stats)
    index = (await client.get_model_repository_index()).models
    assert {(each.name, each.version, each.state) for each in index} == {
        ("m", "1", "READY"),
        ("m", "2", "READY"),
    }
