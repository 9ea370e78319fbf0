"""Parsing of the options of a response cache."""

import contextlib
from collections.abc import Iterable, Mapping

from salver.words.errors import InvalidInput
from salver.words.sizes import byte_count


def only(options: Mapping[str, str], cache: str, known: Iterable[str]) -> None:
    """Reject options that a cache does not have.

    Raises:
        InvalidInput: names the first one.
    """
    names = tuple(known)
    for key in options:
        if key not in names:
            have = ", ".join(names)
            raise InvalidInput(f"the cache {cache!r} has no setting {key!r}", fix=f"It has {have}.")


def byte_size(text: str, what: str) -> int:
    """Parse a size.

    Raises:
        InvalidInput: it is none, or 0.

    >>> byte_size("64m", "size"), byte_size("1048576", "size")
    (67108864, 1048576)
    """
    size = 0
    with contextlib.suppress(ValueError):
        size = byte_count(text)
    if not size:
        raise InvalidInput(f"{what} {text!r} is not a positive number of bytes", fix="As 67108864, or 64m.")
    return size


def number(options: Mapping[str, str], name: str, default: float, cache: str) -> float:
    """Parse a number of at least 0; the default if it is not given.

    Raises:
        InvalidInput: it is none.
    """
    text = options.get(name, "")
    if not text:
        return default
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e9:
        raise InvalidInput(f"{name} {text!r} of the cache {cache!r} is not a number from 0 to 1e9")
    return found
