"""MiniLM sentence embeddings: text in, unit vectors out.

A Python model as ``salver serve`` takes it: a class ``Model`` with its inputs, outputs and
``predict``. Salver runs it in a process of its own and batches requests of several callers into one
call. The tokenizer and the encoder lie beside this file.
"""

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"vector": ("FP32", [-1, 384])}

    def load(self, context):
        folder = context.path if context.path.is_dir() else context.path.parent
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()  # to the longest of the batch, not to the file's 128 tokens
        self.tokenizer.enable_truncation(256)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = context.threads
        self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", settings)

    def predict(self, inputs):
        words = self.tokenizer.encode_batch([text.decode() for text in inputs["text"]])
        ids = np.array([word.ids for word in words], np.int64)
        mask = np.array([word.attention_mask for word in words], np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self.encoder.run(None, feed)
        weights = mask[:, :, None].astype(np.float32)
        means = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return {"vector": means / np.linalg.norm(means, axis=1, keepdims=True)}
