"""Formats of files that TorchServe's models have in a repository."""

from typing import Final

from salver.dialects.torchserve.archive import HandlerArchiveFormat
from salver.kernel.repository import Formats
from salver.words.handlers import FORMAT

FORMATS: Final = Formats(archives={FORMAT: HandlerArchiveFormat()})
