"""Translation of RE2 patterns to Python's ``re``.

Triton's header patterns are RE2 (TR-R32). Most of the differences have an equivalent spelling; those without
one, such as Unicode classes, are refused. Patterns are only searched for in header names, so greediness makes
no difference.
"""

import re
from typing import Final

from salver.words.errors import InvalidInput

_FLAGS: Final = re.compile(r"\(\?([imsU]*)(?:-([imsU]+))?([:)])")
_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_ESCAPES: Final = {"z": r"\Z", "C": r"[\x00-\xff]", "Q": "", "E": ""}


def compiled(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern for names in lower case; it ignores case except after ``(?-i)``.

    Raises:
        InvalidInput: the pattern is invalid, or has no equivalent in Python.

    >>> bool(compiled("(?-i)X-.*").search(b"x-a")), bool(compiled("X-[[:alpha:]]$").search(b"x-a"))
    (False, True)
    """
    try:
        return re.compile(_Translation(pattern).text.encode(), re.IGNORECASE)
    except (re.error, ValueError) as error:
        raise InvalidInput(
            f"header forward pattern {pattern!r} is not a valid regular expression: {error}"
        ) from error


class _Translation:
    """Translation of one pattern, from left to right.

    A flag such as ``(?i)`` holds to the end of its group in RE2, across alternatives. Python allows it only
    for a group of its own, which is therefore closed and reopened around each ``|``.
    """

    def __init__(self, pattern: str) -> None:
        self._rest = pattern
        self._open: list[list[str]] = [[]]  # for each open group, the flags in force
        self._out: list[str] = []
        while self._rest:
            self._step()
        self._end()
        self.text = "".join(self._out)

    def _step(self) -> None:
        rest = self._rest
        if found := _FLAGS.match(rest):
            self._switch(*found.groups(""))
            self._rest = rest[found.end() :]
        elif rest[0] == "\\":
            self._escape()
        elif rest[0] == "[":
            self._bracket()
        else:
            self._plain(rest[0])

    def _plain(self, character: str) -> None:
        self._rest = self._rest[1:]
        if character == "(":
            self._open.append([])
            if self._rest.startswith("?<") and not self._rest.startswith(("?<=", "?<!")):
                self._rest = "?P" + self._rest[1:]
        elif character == ")" and len(self._open) > 1:
            self._end()
            self._open.pop()
        elif character == "|":
            self._end()
            self._out.append("|" + "".join(self._open[-1]))
            return
        self._out.append(character)

    def _end(self) -> None:
        """Close the groups that the flags of the current group have opened."""
        self._out.append(")" * len(self._open[-1]))

    def _switch(self, on: str, off: str, end: str) -> None:
        on, off = on.replace("U", ""), off.replace("U", "")
        opening = f"(?{on}{'-' if off else ''}{off}:"
        if end == ":":
            self._open.append([])
        else:
            self._open[-1].append(opening)
        self._out.append(opening)

    def _escape(self) -> None:
        rest = self._rest
        kind = rest[1:2]
        if kind in ("p", "P"):
            raise ValueError("classes of Unicode are not known here; names of headers are ASCII")
        if kind == "Q":
            quoted, _, self._rest = rest[2:].partition("\\E")
            self._out.append(re.escape(quoted))
        else:
            self._out.append(_ESCAPES.get(kind, rest[:2]))
            self._rest = rest[2:]

    def _bracket(self) -> None:
        """Translate a set of characters, with named classes such as ``[:alpha:]``."""
        found = re.match(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]", self._rest, re.DOTALL)
        if found is None:
            raise ValueError("a [ without its ]")
        self._out.append(re.sub(r"\[:(\w+):\]", _named, found.group()))
        self._rest = self._rest[found.end() :]


def _named(found: re.Match[str]) -> str:
    name = found.group(1)
    if name not in _CLASSES:
        raise ValueError(f"there is no class [:{name}:]")
    return _CLASSES[name]
