"""FastAPI and uvicorn: a JPEG to labels by hand, as most people write it, in the thread pool."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    f"{sys.argv[1]}/model.onnx", options, providers=["CPUExecutionProvider"]
)
names = json.loads(Path(sys.argv[1], "config.json").read_text())["id2label"]
mean = np.array([0.485, 0.456, 0.406], np.float32)
std = np.array([0.229, 0.224, 0.225], np.float32)
app = FastAPI()


def classify(data: bytes) -> list[dict[str, object]]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    pixels = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
    (logits,) = session.run(None, {"pixel_values": np.ascontiguousarray(pixels)})[0]
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    best = scores.argsort()[::-1][:5]
    return [{"label": names[str(i)], "score": float(scores[i])} for i in best]


@app.post("/jpeg")
async def jpeg(request: Request) -> list[dict[str, object]]:
    return await run_in_threadpool(classify, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
