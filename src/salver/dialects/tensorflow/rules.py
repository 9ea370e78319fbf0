"""Options of TensorFlow Serving's protocol. Pure."""

from typing import Final

import msgspec

#: The signature of requests that name none.
DEFAULT: Final = "serving_default"


class TfsRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the protocol that an operator may set.

    Attributes:
        answers_as_content: Whether answers have tensors in ``tensor_content``, not in typed fields (TF-G7).
        checks_method_names: Whether Classify and Regress require a signature of their method (TF-F19).
        timeout_s: Time limit of a call over REST in seconds; 0 = none (TF-R25).
        allows_cors: Whether pages of every origin may read answers over REST (TF-R24).
        tells_no_more: Whether a model's status has only TensorFlow Serving's keys, without other clients'.
        first_output: Whether predictions are those of the first output alone, as of KServe's servers.
    """

    answers_as_content: bool = False
    checks_method_names: bool = False
    timeout_s: float = 0.0
    allows_cors: bool = False
    tells_no_more: bool = False
    first_output: bool = False
