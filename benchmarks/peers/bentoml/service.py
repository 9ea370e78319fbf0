"""A BentoML service that calls ONNX Runtime; the model's path is in SALVER_BENCH_MODEL."""

import os

import bentoml
import numpy as np
import onnxruntime
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

BATCH = int(os.environ["SALVER_BENCH_BATCH"])
LATENCY_MS = int(os.environ["SALVER_BENCH_LATENCY_MS"])
BATCHING = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": LATENCY_MS} if BATCH > 1 else {}


def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = os.environ["SALVER_BENCH_MODEL"]
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


async def _raw(request: Request) -> Response:
    session = service.inner.session  # type: ignore[attr-defined]
    shape = session.get_inputs()[0].shape[1:]
    (out,) = session.run(None, {"x": np.frombuffer(await request.body(), np.float32).reshape(-1, *shape)})
    return Response(out.tobytes(), media_type="application/octet-stream")


raw = Starlette(routes=[Route("/", _raw, methods=["POST"])])


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(raw, path="/raw")
class service:
    def __init__(self) -> None:
        self.session = _session()
        type(self).session = self.session

    @bentoml.api(**BATCHING)
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        (out,) = self.session.run(None, {"x": np.asarray(rows, np.float32)})
        return out
