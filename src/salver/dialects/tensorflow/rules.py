"""What may an operator change about TensorFlow Serving's protocol? Pure."""

import msgspec


class TfsRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator of TensorFlow Serving may change about its protocol.

    Attributes:
        answers_as_content: Tensors of answers stand in ``tensor_content``, and not in typed fields (TF-G7).
        checks_method_names: A signature answers Classify or Regress only if its own method is that (TF-F19).
        timeout_s: Seconds that a call over REST may take; 0 = as many as it likes (TF-R25).
        allows_cors: Answers over REST say that pages of every origin may read them (TF-R24).
        tells_no_more: A model's status has TensorFlow Serving's keys alone, and not those of others' clients.
    """

    answers_as_content: bool = False
    checks_method_names: bool = False
    timeout_s: float = 0.0
    allows_cors: bool = False
    tells_no_more: bool = False
