"""Formats of files that TensorFlow Serving's models have in a repository."""

from typing import Final

from salver.dialects.tensorflow import batching_parameters
from salver.kernel.repository import Formats

FORMATS: Final = Formats(batching={batching_parameters.FILE: batching_parameters.read_batching})
