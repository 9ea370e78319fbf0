"""KServe's Python server: MODEL PORT GRPC_PORT."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, ModelServer
from kserve import Model as KServeModel

path, port, grpc_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Onnx(KServeModel):
    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:
        assert isinstance(payload, InferRequest)
        (out,) = self.session.run(None, {"x": payload.inputs[0].as_numpy()})
        output = InferOutput(name="y", shape=list(out.shape), datatype="FP32")
        binary = payload.from_grpc or bool(payload.request_outputs)
        output.set_data_from_numpy(np.ascontiguousarray(out), binary_data=binary)
        return InferResponse(response_id=payload.id or "0", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    model = Onnx(path.stem)
    model.load()
    ModelServer(
        http_port=port, grpc_port=grpc_port, enable_latency_logging=False, access_log_format=None
    ).start([model])
