"""Amazon SageMaker and Google Vertex AI: the routes and environment of their containers."""

from salver.feature import Feature

feature = Feature(
    "clouds",
    "salver.dialects.clouds.building:build",
    after=("torchserve",),
)
