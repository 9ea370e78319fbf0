"""FetchedModel archives of a model's folder.

They are recognised by name, since many models are zip files themselves.
"""

from pathlib import Path
from typing import Final

from salver.stores.unpack import honest_bytes, unpack
from salver.stores.unzip import unzip
from salver.words.errors import InvalidInput

_TARS: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_archive(name: str) -> bool:
    """Return whether a file is to be unpacked.

    >>> [is_archive(name) for name in ("m.tar.gz", "M.ZIP", "m.mar", "m.pt")]
    [True, True, False, False]
    """
    return name.lower().endswith((*_TARS, ".zip"))


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a new folder and remove it; return the model's folder. Blocking.

    Raises:
        LoadFailed: it is harmful, too large, or broken.
    """
    folder.mkdir()
    if archive.name.lower().endswith(".zip"):
        unzip(archive, folder)
    else:
        unpack(archive, folder, takes_links=False, most=honest_bytes(archive.stat().st_size))
    archive.unlink()
    return inner(folder)


def inner(folder: Path) -> Path:
    """Return the folder, or the only one in it, unless that is a version's."""
    below = list(folder.iterdir())
    if len(below) == 1 and below[0].is_dir() and not below[0].name.isdecimal():
        return below[0]
    return folder


def card_of(folder: Path, most: int = 1 << 20) -> str:
    """Return the README of a folder; empty if it has none.

    Raises:
        InvalidInput: it is no text, or too long.
    """
    file = folder / "README.md"
    if not file.is_file():
        return ""
    with file.open("rb") as read:
        content = read.read(most + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the card README.md cannot be read: {error}") from error
    if len(content) > most:
        raise InvalidInput(f"the card README.md is longer than {most >> 20} MiB")
    return text
