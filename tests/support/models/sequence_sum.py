"""A running sum a sequence, kept by a model of Triton's Python backend, and what it was told besides.

SUM: of IN since the start; FLAGS: start, end, ready; WHO: the id, by the control tensor where it is a number.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}
        outputs = {o["name"]: o["data_type"] for o in json.loads(args["model_config"])["output"]}
        self.is_text = outputs["WHO"] == "TYPE_STRING"

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        start, end, ready, value = (self.number(request, name) for name in ("START", "END", "READY", "IN"))
        who = str(request.correlation_id()).encode() if self.is_text else self.number(request, "CORRID")
        total = 0
        if ready:
            total = self.sums[who] = value + (0 if start else self.sums[who])
            if end:
                del self.sums[who]
        dtype = np.object_ if self.is_text else np.uint64
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("SUM", np.array([[total]], np.int32)),
                pb_utils.Tensor("FLAGS", np.array([[start, end, ready]], np.int32)),
                pb_utils.Tensor("WHO", np.array([[who]], dtype)),
            ]
        )

    def number(self, request, name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy().item()
