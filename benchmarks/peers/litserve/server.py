"""LitServe: MODEL PORT json|base64 BATCH FAST_QUEUE WAIT_SECONDS."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime

path, form, fast_queue = sys.argv[1], sys.argv[3], sys.argv[5]
port, batch, wait = int(sys.argv[2]), int(sys.argv[4]), float(sys.argv[6])


class Onnx(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    def decode_request(self, request):  # unannotated: LitServe makes a route of the annotation
        if form == "base64":
            return np.frombuffer(base64.b64decode(request["b64"]), np.float32).reshape(self.shape)
        return np.array(request["rows"][0], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, inputs: Any) -> Any:
        (out,) = self.session.run(None, {"x": inputs if batch > 1 else inputs[None]})
        return out

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output):
        return {"rows": [output.ravel().tolist()]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Onnx(max_batch_size=batch, batch_timeout=wait),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=fast_queue == "zmq",
    )
    server.run(
        host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1
    )
