import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One reply for each element of IN, none for an empty IN; a negative element becomes an error reply."""

    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            for i, v in enumerate(pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()):
                if v < 0:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("negative element")))
                    continue
                sender.send(
                    pb_utils.InferenceResponse(
                        [
                            pb_utils.Tensor("OUT", np.array([v], np.int32)),
                            pb_utils.Tensor("INDEX", np.array([i], np.int32)),
                        ]
                    )
                )
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
