"""Configuration of models that run in another format than their own."""

from typing import Literal

import msgspec


class TwinsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preferred format of models that can be converted.

    Attributes:
        prefer: ``onnx`` = SavedModels run as ONNX graphs, as far as they can be converted.
    """

    prefer: Literal["tensorflow", "onnx"] = "tensorflow"
