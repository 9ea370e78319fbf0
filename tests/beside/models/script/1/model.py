"""A model that does what a request says, to compare what programs of models see."""

import asyncio  # noqa: F401  (programs use it)
import json  # noqa: F401
import time  # noqa: F401

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """PROGRAM runs with ``request``; what it leaves as ``said`` is SAID, or ``response`` is the answer."""

    def initialize(self, args):
        self.args = args

    def execute(self, requests):
        out = []
        for request in requests:
            program = pb_utils.get_input_tensor_by_name(request, "PROGRAM").as_numpy()[0].decode()
            place = dict(globals(), self=self, request=request)
            try:
                exec(program, place)
            except Exception as error:
                if "raise_it" in place:
                    raise
                place["said"] = f"{type(error).__name__}: {error}"
            if "responses" in place:
                return place["responses"]
            if "response" in place:
                out.append(place["response"])
                continue
            text = str(place.get("said")).encode()
            tensor = pb_utils.Tensor("SAID", np.array([text], dtype=np.object_))
            out.append(pb_utils.InferenceResponse([tensor]))
        return out
