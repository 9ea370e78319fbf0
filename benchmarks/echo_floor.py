"""What does the front cost when nothing is computed? The bare ASGI floor.

The same bytes as the prototype's answer, made once; the request is read and thrown away.

    python benchmarks/echo_floor.py .cache/benchmarks/tiny.onnx --port 9000
"""

import argparse
import json
from pathlib import Path
from typing import Any

import frames
import models
import prototype


class Echo:
    """Answers every form of the question with the right bytes, prepared beforehand."""

    def __init__(self, path: Path) -> None:
        answer = models.MODELS[path.stem].answers[0]
        described = {"name": "y", "datatype": "FP32", "shape": answer.shape}
        reply = frames.InferResponse(model_name=path.stem, raw_output_contents=[answer.tobytes()])
        reply.outputs.add(**described)
        self._grpc = {"type": "http.response.body", "body": frames.frame(reply.SerializeToString())}
        outputs = [{**described, "data": answer.ravel().tolist()}]
        text = json.dumps({"model_name": path.stem, "outputs": outputs}, separators=(",", ":"))
        self._json = {"type": "http.response.body", "body": text.encode()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == frames.INFER_PATH:
            await send(prototype._OK_GRPC)
            await send(self._grpc)
            await send(prototype._TRAILERS)
        else:
            await send(prototype._OK_JSON)
            await send(self._json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=9000)
    given = parser.parse_args()
    prototype.serve(Echo(given.model), given.port)
