"""Line-by-line reading of text files with a limit on line length.

Keeps the byte offset and the number of the next line, so that reading can continue there later. It knows no
format.
"""

from pathlib import Path
from typing import BinaryIO, Final

from salver.features.bulk.rows import Place
from salver.words.errors import InvalidInput

#: Maximum bytes of a row; a server accepts no larger request by default.
MAX_ROW: Final = 64 << 20
#: Maximum bytes of a block of text, regardless of its rows.
MAX_BLOCK: Final = 8 << 20
_BOM: Final = b"\xef\xbb\xbf"


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        InvalidInput: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


class Lines:
    """Lines from ``place`` on, each with its end; ``place`` advances with them."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file = file
        self._at, self._line = place.at, place.line
        file.seek(place.at)

    @property
    def place(self) -> Place:
        """Return the offset of the next line, and the number of lines before it."""
        return Place(self._at, self._line)

    def next(self) -> bytes:
        """Return the next line, empty at the end of the file.

        Raises:
            InvalidInput: it is too long; the following one can be read.
        """
        text = self._file.readline(MAX_ROW + 1)
        size = len(text)
        while size > MAX_ROW and text and not text.endswith(b"\n"):
            text = self._file.readline(MAX_ROW)
            size += len(text)
        if self._at == 0 and text.startswith(_BOM):
            text = text[len(_BOM) :]
        self._at += size
        self._line += 1 if size else 0
        if size > MAX_ROW + 1:
            raise InvalidInput(f"the line has {size} bytes, over the limit of {MAX_ROW}")
        return text
