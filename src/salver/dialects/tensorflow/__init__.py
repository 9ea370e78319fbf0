"""TensorFlow Serving: REST, gRPC, metrics, configuration files and command line."""

from salver.feature import Feature

feature = Feature(
    "tensorflow",
    "salver.dialects.tensorflow.building:build",
    formats="salver.dialects.tensorflow.building:FORMATS",
    after=("openai",),
)
