"""Files of the console, read from the package.

Those of the console are in ``pages/``, those of the API page in ``docs/``.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

#: Content types by file suffix, independent of the machine's own table.
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class PageFile(msgspec.Struct, frozen=True):
    """A file for the browser."""

    content_type: str
    body: bytes


@cache
def read() -> Mapping[str, PageFile]:
    """Return every file by its path below ``/console/``; the first page is ``index.html``."""
    return _files("pages")


@cache
def read_docs() -> Mapping[str, PageFile]:
    """Return the files of the API page by their paths below ``/docs/``."""
    return _files("docs")


def _files(folder: str) -> Mapping[str, PageFile]:
    root = Path(__file__).parent / folder
    return {
        entry.name: PageFile(_TYPES[entry.name.rpartition(".")[2]], entry.read_bytes())
        for entry in root.iterdir()
        if entry.is_file()
    }
