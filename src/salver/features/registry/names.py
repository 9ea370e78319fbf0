"""What may models, aliases and tags be called, and what does ``fraud@champion`` mean?

Pure. ``name@alias`` moves, ``name/version`` is fixed, and a bare name means the newest version.
"""

import re
from typing import Final

import msgspec

from salver.words.errors import InvalidInput

#: Means the newest version, always, and so nobody sets it.
LATEST: Final = "latest"
#: Which a model's requests without a version go to, where it is set and the model says nothing else.
CHAMPION: Final = "champion"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ -]{0,127}", re.ASCII)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
#: Ends of names that repositories take for files under way (``kernel/repository/names.py``).
_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".swp")
_MOST_WORDS: Final = 4096


class Reference(msgspec.Struct, frozen=True):
    """A model's name, with what is said of the version: a number, an alias, or neither."""

    model: str
    number: int | None = None
    alias: str = ""

    def __str__(self) -> str:
        """As it is written."""
        if self.number is not None:
            return f"{self.model}/{self.number}"
        return f"{self.model}@{self.alias}" if self.alias else self.model


def parse(text: str) -> Reference:
    """Read ``name``, ``name@alias`` or ``name/version``.

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
        raise InvalidInput(f"{text[:200]!r} names no version", fix="Write name/7, name@alias, or name.")
    return Reference(check_model(model), number=int(number))


def check_model(name: str) -> str:
    """The name itself.

    Raises:
        InvalidInput: a model cannot be called so.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith(_UNFINISHED):
        raise InvalidInput(
            f"a model cannot be called {name[:200]!r}",
            fix="Use letters, digits, '.', '_' and '-', 128 at most, beginning with a letter or digit.",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself.

    Raises:
        InvalidInput: an alias cannot be called so.
    """
    if alias == LATEST:
        raise InvalidInput(f"{LATEST!r} means the newest version always", fix="Name another alias.")
    if not _ALIAS.fullmatch(alias):
        raise InvalidInput(
            f"an alias cannot be called {alias[:200]!r}",
            fix="Use letters, digits, '.', '_' and '-', 64 at most, beginning with a letter.",
        )
    return alias


def check_key(key: str, what: str) -> str:
    """The key of a tag, or the name of a metric, itself.

    Raises:
        InvalidInput: it cannot be one.
    """
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"a {what} cannot be called {key[:200]!r}",
            fix="Use letters, digits, blanks, '.', '_', '/' and '-', 128 at most.",
        )
    return key


def check_words(text: str, what: str) -> str:
    """Free words that are kept, themselves: a reason, the value of a tag.

    Raises:
        InvalidInput: there are too many, or no database can keep them.
    """
    if len(text) > _MOST_WORDS or not is_text(text):
        raise InvalidInput(
            f"the {what} is too long, has a NUL in it, or is no text", fix=f"Use {_MOST_WORDS} at most."
        )
    return text


def is_text(text: str) -> bool:
    """Can every database keep it? No NUL, and no half of a character, as bytes are that are no UTF-8.

    >>> is_text("Füße"), is_text("a\\0b"), is_text("\\udcff")
    (True, False, False)
    """
    return not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text)
