"""SavedModels served as ONNX graphs."""

from typing import Literal

import msgspec

from salver.feature import Feature


class TwinsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preferred format of models that can be converted.

    Attributes:
        prefer: ``onnx`` = SavedModels run as ONNX graphs, as far as they can be converted.
    """

    prefer: Literal["tensorflow", "onnx"] = "tensorflow"


feature = Feature(
    "twins",
    "salver.features.twins.building:build",
    config=TwinsConfig,
    has_table=False,
    after=("tensorflow",),
)
