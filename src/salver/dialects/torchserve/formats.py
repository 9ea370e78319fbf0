"""Formats of the files of TorchServe's models in a repository."""

from typing import Final

from salver.kernel.repository import Formats
from salver.lazy import lazily, lazy_imports
from salver.words.handlers import FORMAT

with lazy_imports():
    from salver.dialects.torchserve.archive import HandlerArchiveFormat

FORMATS: Final = Formats(archives={FORMAT: lazily(HandlerArchiveFormat)})
