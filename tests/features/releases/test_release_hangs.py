"""A version that hangs while its callers wait for ever, with no deadline anywhere, is rolled back."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from soaking import ONLY
from splitting_server import ledgered, splits
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.registry.records import Actor
from salver.features.releases.judge.policy import Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.transport.server import FrontConfig

#: The second version answers nobody for as long as a file is there.
MODEL = """
import time
from pathlib import Path
import numpy as np
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def predict(self, inputs):
        while VERSION == 2 and Path(HANGS).exists():
            time.sleep(0.01)
        return {"y": np.full((len(inputs["x"]), 1), VERSION, "f4")}
"""
#: The usual one, in seconds for minutes.
POLICY = Policy(stages=(Stage(0.5, 60), Stage(1.0, 0)), warm_up_seconds=0.0, bucket_seconds=0.3)


@pytest.mark.parametrize(
    "is_closed",
    [pytest.param(False, marks=ONLY), True],
    ids=["others come", "who waits does not come again"],
)
async def test_a_version_that_hangs_is_rolled_back_and_who_waits_keeps_waiting(
    tmp_path: Path, is_closed: bool
) -> None:
    models, hangs = tmp_path / "models", tmp_path / "hangs"
    for version in (1, 2):
        (models / "m" / str(version)).mkdir(parents=True)
        code = MODEL.replace("VERSION", str(version)).replace("HANGS", repr(str(hangs)))
        (models / "m" / str(version) / "model.py").write_text(code)
    (models / "m" / "salver.toml").write_text("[versions]\nall = true\n")
    config = ServeConfig(
        paths=(str(models),),
        front=FrontConfig(port=0),
        tables={"registry": {"ledger": str(tmp_path / "registry")}},
    )
    async with Server(config) as server, triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        store = ledgered(server).store
        await store.propose(proposed("r1", "m", ("1", "2"), POLICY, time.time()), Actor("ada"))
        given = triton.InferInput("x", [1, 1], "FP32")
        given.set_data_from_numpy(np.zeros((1, 1), np.float32))
        asked: list[asyncio.Task[object]] = []

        async def call() -> None:
            while True:
                headers = {"x-user-id": f"user-{len(asked)}"}
                asked.append(asyncio.create_task(client.infer("m", [given], headers=headers)))
                await asyncio.sleep(0.02)

        async def call_again() -> None:
            while True:
                asked.append(asyncio.create_task(client.infer("m", [given])))
                await asyncio.shield(asked[-1])

        async def begun() -> object | None:
            return splits(server).router.find("m", "")

        async def over() -> Release | None:
            release = await store.get("r1")
            return None if release.is_live else release

        await auntil(begun)
        hangs.touch()
        try:
            callers = [call_again() for _ in range(20)] if is_closed else [call()]
            calling = [asyncio.create_task(caller) for caller in callers]
            release = await auntil(over, patience_s=120)
            for caller in calling:
                caller.cancel()
        finally:
            hangs.unlink()
        assert release.reason.startswith("timeouts: the canary has events where its control has none")
        answers = await asyncio.gather(*asked)
        said = Counter(int(answer.as_numpy("y")[0, 0]) for answer in answers)  # type: ignore[attr-defined]
        assert said.keys() == {1, 2}
