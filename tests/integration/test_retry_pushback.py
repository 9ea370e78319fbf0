"""A gRPC client with a retry policy, as it comes, waits as long as an overloaded server asks it to."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from waiting import PATIENCE_S

from salver.app import Server
from salver.backends.protocol import LoadOptions, Traits
from salver.configuration import ServeConfig
from salver.transport.server import FrontConfig
from salver.words.artifacts import Manifest
from salver.words.errors import Overloaded
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

PAUSE_S = 0.3
POLICY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.002s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Busy:
    """Refuses the first request and answers the next ones."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1,)),), (TensorSpec("y", DataType.FP32, (-1,)),), batched=True
    )

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.times: list[float] = []

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.times.append(time.monotonic())
        if next(self.numbers) == 0:
            raise Overloaded("come back later", retry_after=PAUSE_S)
        return {"y": inputs["x"]}

    def close(self) -> None: ...


class BusyBackend:
    name = "busy"
    extra = "busy"
    modules = ()
    traits = Traits()

    def __init__(self) -> None:
        self.model = Busy()

    def recognise(self, path: Path) -> str | None:
        return "busy" if path.suffix == ".busy" else None

    def load(self, manifest: Manifest, options: LoadOptions) -> Busy:
        return self.model


def ask(port: int) -> Array:
    given = triton.InferInput("x", [1], "FP32")
    given.set_data_from_numpy(np.ones(1, np.float32))
    options = [("grpc.service_config", json.dumps(POLICY))]
    with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=options) as client:
        answer: Array = client.infer("m", [given], client_timeout=PATIENCE_S).as_numpy("y")
        return answer


async def test_grpc_waits_as_long_as_it_is_asked_to_and_tries_again(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.busy").touch()
    (tmp_path / "m" / "salver.toml").write_text("[warmup]\nrounds = 0\n")
    backend = BusyBackend()
    config = ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0))
    async with Server(config, {"busy": backend}) as server:
        assert (await asyncio.to_thread(ask, server.port)).tolist() == [1.0]
    refused, answered = backend.model.times
    assert answered - refused >= PAUSE_S, "a client's own pause would be a few milliseconds"
