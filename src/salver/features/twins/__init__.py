"""SavedModels served as ONNX graphs."""

from salver.feature import Feature
from salver.features.twins.config import TwinsConfig

feature = Feature(
    "twins",
    "salver.features.twins.building:build",
    config=TwinsConfig,
    has_table=False,
    after=("tensorflow",),
)
