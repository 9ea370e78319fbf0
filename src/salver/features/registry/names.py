"""Names of models, aliases and tags, and references such as ``fraud@champion``.

Pure. ``name@alias`` may move, ``name/version`` is fixed, and a bare name means the newest version.
"""

import re
from typing import Final

import msgspec

from salver.words.errors import InvalidInput

#: Alias that always means the newest version and cannot be set.
LATEST: Final = "latest"
#: Default alias of requests without a version, if it is set and the model configures no other.
CHAMPION: Final = "champion"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ -]{0,127}", re.ASCII)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
#: Suffixes that repositories treat as unfinished files (``kernel/repository/names.py``).
_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".swp")
_MOST_WORDS: Final = 4096


class Reference(msgspec.Struct, frozen=True):
    """A model's name with a version: a number, an alias, or neither."""

    model: str
    number: int | None = None
    alias: str = ""

    def __str__(self) -> str:
        """Return it as it is written."""
        if self.number is not None:
            return f"{self.model}/{self.number}"
        return f"{self.model}{self.alias and f'@{self.alias}'}"


def parse(text: str) -> Reference:
    """Parse ``name``, ``name@alias`` or ``name/version``.

    Raises:
        InvalidInput: it is none of them.

    >>> parse("fraud@champion"), parse("fraud/7").number, parse("fraud@latest").alias
    (Reference(model='fraud', number=None, alias='champion'), 7, '')
    """
    model, at, alias = text.partition("@")
    if at:
        return Reference(check_model(model), alias="" if alias == LATEST else check_alias(alias))
    model, slash, number = text.partition("/")
    if not slash:
        return Reference(check_model(model))
    if not _VERSION.fullmatch(number):
        raise InvalidInput(
            f"{text[:200]!r} does not name a version", fix="Write name/7, name@alias, or name."
        )
    return Reference(check_model(model), number=int(number))


def check_model(name: str) -> str:
    """Return a valid model name.

    Raises:
        InvalidInput: the name is not allowed for a model.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith(_UNFINISHED):
        raise InvalidInput(
            f"{name[:200]!r} is not allowed as a model name",
            fix="Use letters, digits, '.', '_' and '-', 128 at most, beginning with a letter or digit.",
        )
    return name


def check_alias(alias: str) -> str:
    """Return a valid alias.

    Raises:
        InvalidInput: the name is not allowed for an alias.
    """
    if alias == LATEST:
        raise InvalidInput(f"{LATEST!r} always means the newest version", fix="Name another alias.")
    if not _ALIAS.fullmatch(alias):
        raise InvalidInput(
            f"{alias[:200]!r} is not allowed as an alias",
            fix="Use letters, digits, '.', '_' and '-', 64 at most, beginning with a letter.",
        )
    return alias


def check_key(key: str, what: str) -> str:
    """Return a valid key of a tag or name of a metric.

    Raises:
        InvalidInput: the key is not allowed.
    """
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"{key[:200]!r} is not allowed as a {what}",
            fix="Use letters, digits, blanks, '.', '_', '/' and '-', 128 at most.",
        )
    return key


def check_words(text: str, what: str) -> str:
    """Return valid free text: a reason, or the value of a tag.

    Raises:
        InvalidInput: it is too long, or has characters that a database cannot store.
    """
    if len(text) > _MOST_WORDS or not is_text(text):
        raise InvalidInput(
            f"the {what} is too long, contains NUL, or is not text", fix=f"Use {_MOST_WORDS} at most."
        )
    return text


def is_text(text: str) -> bool:
    """Return whether every database can store a text: no NUL, and no lone surrogates from invalid UTF-8.

    >>> is_text("Füße"), is_text("a\\0b"), is_text("\\udcff")
    (True, False, False)
    """
    return not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text)
