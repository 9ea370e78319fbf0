"""A model of Triton's Python backend that calls ONNX Runtime on the whole batch."""

from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        (out,) = self.session.run(None, {"x": rows[0] if len(rows) == 1 else np.concatenate(rows)})
        replies, start = [], 0
        for row in rows:
            end = start + len(row)
            tensor = pb_utils.Tensor("y", out[start:end])
            replies.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
            start = end
        return replies
