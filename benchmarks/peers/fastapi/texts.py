"""FastAPI and uvicorn: a text to its embedding or class by hand, as most people write it, in the thread pool.

``texts.py FOLDER PORT [padded]``; ``padded`` keeps the padding that the tokenizer's file asks for.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    next(folder.rglob("model.onnx")), options, providers=["CPUExecutionProvider"]
)
names = json.loads((folder / "config.json").read_text()).get("id2label", {})
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
if "padded" not in sys.argv:
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
app = FastAPI()


def run(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = tokenizer.encode_batch(texts)
    mask = np.array([each.attention_mask for each in encoded], np.int64)
    feed = {
        "input_ids": np.array([each.ids for each in encoded], np.int64),
        "attention_mask": mask,
        "token_type_ids": np.array([each.type_ids for each in encoded], np.int64),
    }
    return session.run(None, feed)[0], mask


def texts_of(body: dict[str, object]) -> list[str]:
    inputs = body["inputs"]
    return inputs if isinstance(inputs, list) else [str(inputs)]


@app.post("/embed")
def embed(body: dict[str, object]) -> dict[str, object]:
    states, mask = run(texts_of(body))
    vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {"embeddings": vectors.tolist()}


@app.post("/classify")
def classify(body: dict[str, object]) -> list[dict[str, object]]:
    logits, _ = run(texts_of(body))
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    return [{"label": names[str(row.argmax())], "score": float(row.max())} for row in scores]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
