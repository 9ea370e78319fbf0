"""A TorchServe handler that calls ONNX Runtime on the whole batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Onnx:
    def initialize(self, context: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        folder = Path(context.system_properties["model_dir"])
        path = folder / context.manifest["model"]["serializedFile"]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        bodies = [item.get("body") or item.get("data") for item in data]
        rows = [
            np.array(body["rows"], np.float32)
            if isinstance(body, dict)
            else np.frombuffer(body, np.float32).reshape(1, *self.shape)
            for body in bodies
        ]
        (out,) = self.session.run(None, {"x": np.concatenate(rows)})
        return [
            {"rows": [row.tolist()]} if isinstance(body, dict) else row.tobytes()
            for body, row in zip(bodies, out, strict=True)
        ]
