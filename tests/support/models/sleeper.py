import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sleeps MS milliseconds; TURN counts the executions since MS was last negative."""

    def initialize(self, args):
        self.turn = 0

    def execute(self, requests):
        out = []
        for r in requests:
            ms = pb_utils.get_input_tensor_by_name(r, "MS").as_numpy()
            if ms.ravel()[0] < 0:
                self.turn = 0
            else:
                time.sleep(ms.ravel()[0] / 1000.0)
                self.turn += 1
            out.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("TURN", np.full(ms.shape, self.turn, np.int32))])
            )
        return out
