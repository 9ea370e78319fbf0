"""A decoupled model that does what a request says."""

import json  # noqa: F401
import threading  # noqa: F401
import time  # noqa: F401

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """PROGRAM runs with ``request``, ``sender``, ``say(text)`` and ``final``; what it raises is said."""

    def execute(self, requests):
        for request in requests:
            program = pb_utils.get_input_tensor_by_name(request, "PROGRAM").as_numpy()[0].decode()
            sender = request.get_response_sender()

            def answer(text):
                tensor = pb_utils.Tensor("SAID", np.array([str(text).encode()], dtype=np.object_))
                return pb_utils.InferenceResponse([tensor])

            place = dict(globals(), self=self, request=request, sender=sender, answer=answer)
            place["say"] = lambda text, sender=sender: sender.send(answer(text))
            place["final"] = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            try:
                exec(program, place)
            except Exception as error:
                if "raise_it" in place:
                    raise
                if "late" not in place:
                    sender.send(answer(f"{type(error).__name__}: {error}"), place["final"])
            if "result" in place:
                return place["result"]
        return None
