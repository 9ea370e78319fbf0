"""Sizes in bytes as people write and read them. Units are powers of 1024. Pure."""

import re

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNIT_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def byte_count(text: str) -> int:
    """Convert a size to bytes.

    Raises:
        ValueError: it is none.

    >>> byte_count("1.5 GiB"), byte_count("512m")
    (1610612736, 536870912)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size")
    return int(float(match[1]) * _UNIT_BYTES[match[2].lower()])


def told_bytes(count: float) -> str:
    """Return bytes for a person, in three digits.

    >>> told_bytes(512), told_bytes(1023), told_bytes(21_600_000), told_bytes(5 << 30)
    ('512 B', '0.999 KiB', '20.6 MiB', '5 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 999.5:  # three digits still
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
