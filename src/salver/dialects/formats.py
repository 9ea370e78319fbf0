"""The formats of files in a repository that the dialects bring."""

from collections.abc import Mapping
from typing import Final

from salver.backends.protocol import Recogniser, TouchesMachine
from salver.dialects.tensorflow import batching_parameters
from salver.dialects.torchserve.archive import HandlerArchiveFormat
from salver.dialects.triton.config import pbtxt
from salver.dialects.triton.config.format import TritonConfigFormat
from salver.dialects.triton.model_folders import open_folder
from salver.kernel.repository import Formats
from salver.kernel.repository.ports import ConfigFormat, always_touches
from salver.words.handlers import FORMAT

#: Configuration files of other servers, by name.
CONFIGS: Final[Mapping[str, ConfigFormat]] = {pbtxt.FILE: TritonConfigFormat()}


def formats(recognise: Recogniser, touches_machine: TouchesMachine = always_touches) -> Formats:
    """Return all formats, for every reader of a repository.

    Args:
        recognise: Tells the formats of artefacts apart.
        touches_machine: Tells which formats requests may bring; by default none.
    """
    return Formats(
        recognise,
        touches_machine,
        CONFIGS,
        {FORMAT: HandlerArchiveFormat()},
        {batching_parameters.FILE: batching_parameters.read_batching},
        open_folder,
    )
