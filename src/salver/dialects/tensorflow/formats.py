"""Formats of files that TensorFlow Serving's models have in a repository."""

from typing import Final

from salver.kernel.repository import Formats
from salver.lazy import lazy_imports

with lazy_imports():
    from salver.dialects.tensorflow.batching_parameters import read_batching


#: In the folder of a SavedModel, where models have parameters of their own.
FORMATS: Final = Formats(batching={"batching_params.pbtxt": read_batching})
