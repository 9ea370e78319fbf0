"""Ray Serve with many models in one replica: MODEL PORT GRPC_PORT FOLDER MODELS_AT_ONCE."""

import asyncio
import sys
from typing import Any

import local
import numpy as np
import onnxruntime
from ray import serve
from starlette.requests import Request

path, port, grpc_port, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
slots = int(sys.argv[5])


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Many:
    def __init__(self) -> None:
        self.loads = 0

    @serve.multiplexed(max_num_models_per_replica=slots)
    async def model(self, name: str) -> Any:
        self.loads += 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return await asyncio.to_thread(
            onnxruntime.InferenceSession, path, options, providers=["CPUExecutionProvider"]
        )

    async def __call__(self, request: Request) -> Any:
        if request.url.path == "/loads":
            return {"loads": self.loads}
        session = await self.model(serve.get_multiplexed_model_id())
        (out,) = session.run(None, {"x": np.array((await request.json())["rows"], np.float32)})
        return {"rows": out.tolist()}


if __name__ == "__main__":
    local.run(Many.bind(), port, grpc_port, folder)
