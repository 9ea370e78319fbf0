"""Text of a key: a prefix that scanners know, 178 random bits, and a checksum."""

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "slv_"
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM: Final = 30
_CHECK: Final = 6
_FORM: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECK}}}")


def new_key(choose: Callable[[str], str] = secrets.choice) -> str:
    """Return a new key."""
    body = PREFIX + "".join(choose(_LETTERS) for _ in range(_RANDOM))
    return body + checksum(body)


def checksum(body: str) -> str:
    """Return the CRC32 of prefix and random letters, in six letters.

    >>> checksum("slv_" + "0" * 30)
    '09M4m9'
    """
    number, text = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, len(_LETTERS))
        text = _LETTERS[digit] + text
    return text.rjust(_CHECK, _LETTERS[0])


def is_key(text: str) -> bool:
    """Return whether a text has the form of a key, with its checksum.

    >>> is_key("slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lY"), is_key("slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lZ")
    (True, False)
    """
    return _FORM.fullmatch(text) is not None and checksum(text[:-_CHECK]) == text[-_CHECK:]


def digest_of(key: bytes) -> bytes:
    """Return the hash by which a key is looked up: one SHA-256, as a key cannot be guessed."""
    return hashlib.sha256(key).digest()


def shown(key: str) -> str:
    """Return the part of a key that may be shown.

    >>> shown("slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lY")
    'slv_0123…0lY'
    """
    return f"{key[: len(PREFIX) + 4]}…{key[-3:]}"
