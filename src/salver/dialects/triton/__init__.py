"""NVIDIA Triton: its extensions, configurations, metrics and command line."""

from salver.feature import Feature

feature = Feature(
    "triton",
    "salver.dialects.triton.building:build",
    formats="salver.dialects.triton.formats:FORMATS",
    after=("oip",),
)
