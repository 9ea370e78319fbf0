import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """FACTS: what the model can see of the request, as JSON text."""

    def execute(self, requests):
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "IN")
            facts = {
                "id": r.request_id(),
                "parameters": json.loads(r.parameters() or "{}"),
                "timeout": r.timeout(),
                "correlation_id": r.correlation_id(),
                "flags": r.flags(),
                "outputs": sorted(r.requested_output_names()),
            }
            text = json.dumps(facts, sort_keys=True).encode()
            out.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("FACTS", np.array([text], dtype=np.object_)),
                        pb_utils.Tensor("SAME", x.as_numpy()),
                    ]
                )
            )
        return out
