"""mosec, with its own flags; its workers have other arguments, so that ours are in the environment."""

import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker

path = os.environ["BENCH_MODEL"]
batch, wait = int(os.environ["BENCH_BATCH"]), int(os.environ["BENCH_WAIT_MS"])


class Onnx(Worker):
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = np.array([one["rows"][0] for one in data], np.float32).reshape(-1, *self.shape)
        (out,) = self.session.run(None, {"x": rows})
        return [{"rows": [row.tolist()]} for row in out]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Onnx, num=1, max_batch_size=batch, max_wait_time=wait)
    server.run()
