"""How is a ``.properties`` file of Java read, and written?

As ``java.util.Properties`` does: ``=``, ``:`` or blanks behind the key, lines that go on behind a backslash,
comments behind ``#`` or ``!``, escapes. Text is UTF-8, or else Latin-1. It knows no key.

Pure.
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
    r"""Values by key; of a key that occurs twice the last one counts.

    Args:
        origin: The file's path, for messages.

    Raises:
        TooLarge: there is more than :data:`MAX_BYTES` of it.
        InvalidInput: an escape is broken; line and key are named.

    >>> parse(b"# comment\na=1\nb : x\\\n   y\nc d", "f")
    {'a': '1', 'b': 'xy', 'c': 'd'}
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{origin} has {len(data)} bytes; {MAX_BYTES} are the most")
    found = {}
    for number, line in _logical(_text(data)):
        match = _KEY.match(line)
        assert match is not None  # it matches nothing, too
        where = f"{origin}, line {number}"
        found[_unescaped(match[1], where)] = _unescaped(line[match.end() :], where)
    return found


def format_properties(values: Mapping[str, str], comments: Iterable[str] = ()) -> str:
    r"""A file that :func:`parse` reads as these values.

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
    """Lines with what they go on with, and the number of the first; no comments, no empty ones."""
    begun: str | None = None  # None = no line is open
    start = 0
    for number, natural in enumerate(_LINES.split(text), 1):
        line = natural.lstrip(_BLANKS)
        if begun is None:
            if not line or line[0] in "#!":
                continue
            begun, start = "", number
        is_open = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        begun += line[:-1] if is_open else line
        if not is_open:
            if begun:
                yield start, begun
            begun = None
    if begun:
        yield start, begun


def _unescaped(text: str, where: str) -> str:
    if "\\" not in text:
        return text

    def meant(match: re.Match[str]) -> str:
        said = match[1]
        if len(said) == 5:
            return chr(int(said[1:], 16))
        if said == "u":
            raise InvalidInput(f"{where}: \\u is not followed by four hexadecimal digits")
        return _NAMED.get(said, said)

    # Java writes what lies beyond U+FFFF as two halves.
    return _ESCAPE.sub(meant, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escaped(text: str, *, is_key: bool = False) -> str:
    found = "".join([_WRITTEN.get(c, c) for c in text])
    if is_key:
        return found.replace(" ", "\\ ")
    return f"\\{found}" if found.startswith(" ") else found


def _one_line(comment: str) -> str:
    return _LINES.sub(" ", comment)
