import json

import numpy as np
import triton_python_backend_utils as pb_utils


def first(request, name, default):
    t = pb_utils.get_input_tensor_by_name(request, name)
    return default if t is None else t.as_numpy().ravel()[0]


class TritonPythonModel:
    """Says the words of text_input, one reply a word when stream is true, else all at once.

    The word FAIL is an error, EMPTY sends nothing, TWICE sends two replies though stream is false.
    """

    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            words = first(r, "text_input", b"").decode().split(" ")[: int(first(r, "max_tokens", 1000))]
            options = json.loads(r.parameters() or "{}")
            if options.get("prefix"):
                words = [str(options["prefix"]), *words]
            chunks = words if first(r, "stream", False) else [" ".join(words)]
            if "EMPTY" in words:
                chunks = []
            if "TWICE" in words:
                chunks = chunks * 2
            for c in chunks:
                if "FAIL" in c:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("a word failed")))
                    break
                sender.send(
                    pb_utils.InferenceResponse(
                        [pb_utils.Tensor("text_output", np.array([c.encode()], dtype=np.object_))]
                    )
                )
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
