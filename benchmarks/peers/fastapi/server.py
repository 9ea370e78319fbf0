"""FastAPI and uvicorn, calling ONNX Runtime by hand: what most people write first."""

import sys
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


@app.post("/predict")
async def predict(asked: Rows) -> Rows:
    (out,) = session.run(None, {"x": np.array(asked.rows, np.float32)})
    return Rows(rows=out.tolist())


@app.post("/raw")
async def raw(request: Request) -> Response:
    shape: list[Any] = session.get_inputs()[0].shape
    array = np.frombuffer(await request.body(), np.float32).reshape(-1, *shape[1:])
    (out,) = session.run(None, {"x": array})
    return Response(out.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
