"""What does the repository need from others?"""

from collections.abc import Callable
from pathlib import Path

import msgspec


class Recognised(msgspec.Struct, frozen=True):
    """What an artefact turned out to be: ``Recognised("onnx", "onnx")``."""

    backend: str
    format: str


#: Looks at a file or folder, briefly, by content; None where no backend knows it.
Recognise = Callable[[Path], Recognised | None]

#: Given a backend and a format: can loading or running such an artefact touch files, the network or run code?
Touches = Callable[[str, str], bool]
