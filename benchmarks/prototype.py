"""What can this front do at most? A bare prototype: the benchmark's floor.

Plain ASGI on h2corn, JSON through orjson, gRPC framed by hand, and a queue that is drained into
one batch whenever the loop comes round. One model, no checks, no versions, no metrics, no
deadlines: everything a real server adds is missing, so what is left is the cost that cannot be
avoided.

    python benchmarks/prototype.py .cache/benchmarks/tiny.onnx --port 9000
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import frames
import h2corn
import models
import numpy as np
import orjson
import uvloop

_OK_JSON = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_OK_GRPC = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_TRAILERS = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class Queue:
    """Everything that waits becomes the next batch."""

    def __init__(self, path: Path, limit: int) -> None:
        self._run = models.session(path).run
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self.batches = self.rows = 0

    def put(self, array: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._drain)
        self._waiting.append((array, future))
        return future

    def _drain(self) -> None:
        batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
        if self._waiting:
            self._loop.call_soon(self._drain)
        if len(batch) == 1:
            (out,) = self._run(None, {"x": batch[0][0]})
        else:
            (out,) = self._run(None, {"x": np.concatenate([array for array, _ in batch])})
        self.batches += 1
        row = 0
        for array, future in batch:
            end = row + len(array)
            future.set_result(out[row:end])
            row = end
        self.rows += row


class App:
    """Three forms of one question: JSON, JSON head with binary tensors, gRPC."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._name = path.stem
        self._queue: Queue | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._queue is None:
            self._queue = Queue(self._path, self._limit)
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            while message.get("more_body"):
                message = await receive()
                parts.append(message.get("body", b""))
            body = b"".join(parts)
        if scope["path"] == frames.INFER_PATH:
            await self._grpc(body, send)
        elif scope["method"] == "GET":
            await self._stats(send)
        else:
            length = None
            for name, value in scope["headers"]:
                if name == b"inference-header-content-length":
                    length = int(value)
                    break
            await (self._json(body, send) if length is None else self._binary(body, length, send))

    async def _grpc(self, body: bytes, send: Any) -> None:
        request = frames.InferRequest.FromString(body[5:])
        asked = request.inputs[0]
        out = await self._queue.put(  # type: ignore[union-attr]
            np.frombuffer(request.raw_input_contents[0], np.float32).reshape(asked.shape)
        )
        reply = frames.InferResponse(model_name=self._name, raw_output_contents=[out.tobytes()])
        reply.outputs.add(name="y", datatype="FP32", shape=out.shape)
        await send(_OK_GRPC)
        await send({"type": "http.response.body", "body": frames.frame(reply.SerializeToString())})
        await send(_TRAILERS)

    async def _json(self, body: bytes, send: Any) -> None:
        asked = orjson.loads(body)["inputs"][0]
        out = await self._queue.put(np.array(asked["data"], np.float32).reshape(asked["shape"]))  # type: ignore[union-attr]
        reply = {
            "model_name": self._name,
            "outputs": [{"name": "y", "datatype": "FP32", "shape": out.shape, "data": out.ravel().tolist()}],
        }
        await send(_OK_JSON)
        await send({"type": "http.response.body", "body": orjson.dumps(reply)})

    async def _binary(self, body: bytes, length: int, send: Any) -> None:
        asked = orjson.loads(body[:length])["inputs"][0]
        out = await self._queue.put(  # type: ignore[union-attr]
            np.frombuffer(body, np.float32, offset=length).reshape(asked["shape"])
        )
        raw = out.tobytes()
        described = {
            "name": "y",
            "datatype": "FP32",
            "shape": out.shape,
            "parameters": {"binary_data_size": len(raw)},
        }
        head = orjson.dumps({"model_name": self._name, "outputs": [described]})
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(head)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": head + raw})

    async def _stats(self, send: Any) -> None:
        queue = self._queue
        assert queue is not None
        counts = {"inference_count": queue.rows, "execution_count": queue.batches}
        stats = {"model_stats": [{"name": self._name, **counts}]}
        await send(_OK_JSON)
        await send({"type": "http.response.body", "body": orjson.dumps(stats)})


def serve(app: Any, port: int) -> None:
    """Serve on loopback until killed."""
    config = h2corn.Config(
        bind=(f"127.0.0.1:{port}",), grpc=True, access_log=False, lifespan="off", runtime_threads=1
    )
    uvloop.run(h2corn.Server(app, config).serve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=64, help="rows a batch may have")
    given = parser.parse_args()
    serve(App(given.model, given.batch), given.port)
