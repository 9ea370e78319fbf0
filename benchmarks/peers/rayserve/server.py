"""Ray Serve on this machine alone: MODEL PORT GRPC_PORT FOLDER BATCH WAIT_SECONDS."""

import sys
from typing import Any

import frames
import local
import numpy as np
import onnxruntime
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

path, port, grpc_port, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
batch, wait = int(sys.argv[5]), float(sys.argv[6])


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Onnx:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    async def __call__(self, request: Request) -> Any:
        if request.url.path == "/raw":
            array = np.frombuffer(await request.body(), np.float32).reshape(-1, *self.shape)
            (out,) = self.session.run(None, {"x": array})
            return Response(out.tobytes(), media_type="application/octet-stream")
        rows = np.array((await request.json())["rows"], np.float32)
        if batch > 1:
            return {"rows": (await self.together(rows)).tolist()}
        (out,) = self.session.run(None, {"x": rows})
        return {"rows": out.tolist()}

    @serve.batch(max_batch_size=max(batch, 1), batch_wait_timeout_s=wait)
    async def together(self, rows: list[Any]) -> list[Any]:
        (out,) = self.session.run(None, {"x": np.concatenate(rows)})
        return [out[i : i + 1] for i in range(len(rows))]

    async def ModelInfer(self, message: bytes) -> Any:
        request = frames.InferRequest.FromString(message)
        shape = list(request.inputs[0].shape)
        (out,) = self.session.run(
            None, {"x": np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape)}
        )
        reply = frames.InferResponse(model_name=request.model_name, raw_output_contents=[out.tobytes()])
        reply.outputs.add(name="y", datatype="FP32", shape=out.shape)
        return reply


if __name__ == "__main__":
    local.run(Onnx.bind(path), port, grpc_port, folder)
