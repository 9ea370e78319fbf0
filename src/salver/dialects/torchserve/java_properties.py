"""Java's ``.properties`` files, read and written as ``java.util.Properties`` does.

``=``, ``:`` or blanks after the key, lines continued by a backslash, comments after ``#`` or ``!``, escapes.
Text is UTF-8, or else Latin-1. Pure.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from salver.words.errors import InvalidInput, TooLarge

MAX_BYTES: Final = 4 << 20
_BLANKS: Final = " \t\f"
_LINES: Final = re.compile(r"\r\n|\r|\n")
_KEY: Final = re.compile(r"((?:[^\\=: \t\f]|\\.)*+)[ \t\f]*+[=:]?[ \t\f]*+", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_WRITTEN: Final = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"} | {c: f"\\{c}" for c in "\\=:#!"}


def parse(data: bytes, origin: str) -> dict[str, str]:
    r"""Return values by key; the last value of a repeated key counts.

    Args:
        origin: The file's path, for messages.

    Raises:
        TooLarge: the file has more than :data:`MAX_BYTES`.
        InvalidInput: an escape is malformed; the message names the line.

    >>> parse(b"# comment\na=1\nb : x\\\n   y\nc d", "f")
    {'a': '1', 'b': 'xy', 'c': 'd'}
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{origin} has {len(data)} bytes; the limit is {MAX_BYTES}")
    found = {}
    for number, line in _logical(_text(data)):
        match = _KEY.match(line)
        assert match is not None  # the pattern matches an empty key
        where = f"{origin}, line {number}"
        found[_unescaped(match[1], where)] = _unescaped(line[match.end() :], where)
    return found


def format_properties(values: Mapping[str, str], comments: Iterable[str] = ()) -> str:
    r"""Return the text of a file that :func:`parse` reads as these values.

    >>> format_properties({"a b": " c:d"}, ["made by hand"])
    '#made by hand\na\\ b=\\ c\\:d\n'
    """
    lines = [f"#{_one_line(comment)}" for comment in comments]
    lines += [f"{_escaped(key, is_key=True)}={_escaped(value)}" for key, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Yield joined lines with the number of their first one; no comments and no empty lines."""
    parts: list[str] = []  # of an unfinished line
    start = 0
    for number, natural in enumerate([*_LINES.split(text), ""], 1):
        line = natural.lstrip(_BLANKS)
        if not parts:
            if not line or line[0] in "#!":
                continue
            start = number
        if (len(line) - len(line.rstrip("\\"))) % 2:  # an odd number of backslashes continues the line
            parts.append(line[:-1])
            continue
        if whole := "".join([*parts, line]):
            yield start, whole
        parts = []


def _unescaped(text: str, where: str) -> str:
    if "\\" not in text:
        return text

    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape == "u":
            raise InvalidInput(f"{where}: \\u is not followed by four hexadecimal digits")
        return _NAMED.get(escape, escape)

    # Java writes characters beyond U+FFFF as surrogate pairs.
    return _ESCAPE.sub(character, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escaped(text: str, *, is_key: bool = False) -> str:
    escaped = "".join([_WRITTEN.get(c, c) for c in text])
    if is_key:
        return escaped.replace(" ", "\\ ")
    return re.sub("^ ", r"\\ ", escaped)


def _one_line(comment: str) -> str:
    return _LINES.sub(" ", comment)
