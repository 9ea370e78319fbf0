"""A model that doubles, with the size of its batch, and requests of it."""

import numpy as np
from waiting import PATIENCE_S

from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("n", DataType.INT64, (-1,))),
    batched=True,
)
ID = ModelId("m", "1")


class Doubler:
    """y = 2x, n = rows of the batch; a NaN row makes the whole run raise."""

    signature = SIGNATURE

    def __init__(self):
        self.batches = []
        self.gate = None
        self.is_closed = False

    def run(self, inputs):
        if self.gate is not None:
            self.gate.wait(PATIENCE_S)
        x = inputs["x"]
        self.batches.append(len(x))
        if np.isnan(x).any():
            raise ZeroDivisionError("poison")
        return {"y": x * 2, "n": np.full(len(x), len(x), "i8")}

    def close(self):
        self.is_closed = True


def request(value, rows=1, **kwargs):
    return InferRequest("m", (tensor("x", np.full((rows, 2), value, "f4")),), **kwargs)
