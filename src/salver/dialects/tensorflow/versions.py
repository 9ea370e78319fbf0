"""Versions as requests name them: by number, by label, or not at all."""

from typing import Final

from salver.transport.ports import Control, ModelView
from salver.words.errors import NotFound, NotReady

_MOST: Final = 1 << 63


def number_of_version(version: str) -> int | None:
    """Return a version as a number of 63 bits; None if it is none.

    >>> number_of_version("00000123"), number_of_version("1.0")
    (123, None)
    """
    if not (version.isascii() and version.isdecimal()) or len(version) >= 40 or int(version) >= _MOST:
        return None
    return int(version)


def server_version(door: ModelView, control: Control, model: str, version: str, label: str) -> str:
    """Return the server's name of a version; empty = newest.

    Args:
        version: Its number, without leading zeros; empty if the request names none.
        label: Its label; empty if the request names none.

    Raises:
        InvalidInput: There is no such label.
    """
    if label:
        return control.version_of_label(model, label)
    if not version:
        return ""
    try:
        door.signature(model, version)
    except NotFound:  # the folder's name may have leading zeros
        for row in control.versions(model):
            if str(number_of_version(row.id.version)) == version:
                return row.id.version
    except NotReady:
        pass
    return version
