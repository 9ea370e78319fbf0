import numpy as np
import triton_python_backend_utils as pb_utils

NAMES = [
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
]


class TritonPythonModel:
    """CODE 0 to 7: an error of that kind; 8: one of none; 9: ValueError; 10: TritonModelException.

    11: no output; 12: wrong datatype; 13: wrong shape; 14: too few replies; 15: unknown output; else an echo.
    """

    def execute(self, requests):
        out = []
        for r in requests:
            t = pb_utils.get_input_tensor_by_name(r, "CODE").as_numpy()
            code = int(t[0])
            if 0 <= code <= 7:
                err = pb_utils.TritonError(
                    "asked for " + NAMES[code], getattr(pb_utils.TritonError, NAMES[code])
                )
                out.append(pb_utils.InferenceResponse(error=err))
            elif code == 8:
                out.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("asked for an error")))
            elif code == 9:
                raise ValueError("asked to raise")
            elif code == 10:
                raise pb_utils.TritonModelException("asked to raise a model exception")
            elif code == 11:
                out.append(pb_utils.InferenceResponse([]))
            elif code == 12:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", t.astype(np.float32))]))
            elif code == 13:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros((2, 3), np.int32))]))
            elif code == 14:
                return []
            elif code == 15:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OTHER", t)]))
            else:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", t)]))
        return out
