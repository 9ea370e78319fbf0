import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """C = A + B, with 100 where B is left out."""

    def execute(self, requests):
        out = []
        for r in requests:
            a = pb_utils.get_input_tensor_by_name(r, "A").as_numpy()
            b = pb_utils.get_input_tensor_by_name(r, "B")
            c = a + (b.as_numpy() if b is not None else 100)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("C", c.astype(np.int32))]))
        return out
