"""JSON parser with RapidJSON's behaviour and error texts.

``NaN``, ``Infinity`` and ``Inf`` are numbers, everything after the first value is ignored (TF-R16), strings
need not be UTF-8, and errors name problem and place (TF-R31). Nothing recurses. orjson parses nearly all
texts, the standard library those with NaN, and :class:`_Reader` the rest. Pure.
"""

import json
import re
from typing import Any, Final, NoReturn

import orjson

from salver.words.errors import InvalidInput

#: Limit of nested lists and objects; orjson's own.
MAX_DEPTH: Final = 1024
#: Steps after which the error text need not be exact, to limit the time to about half a second.
_PATIENCE: Final = 400_000

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*+')
_STRING: Final = re.compile(
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"', re.DOTALL
)
_HEX: Final = re.compile(rb"[0-9a-fA-F]{4}")
_NUMBER: Final = re.compile(rb"-?(?:(0|[1-9]\d*+)(\.\d++)?+([eE][+-]?\d++)?+)?")
#: Elements of a list, each with its comma, that the standard library parses as RapidJSON does.
_RUN: Final = re.compile(
    rb"(?:[ \t\r\n]*+(?:-?(?:0|[1-9]\d{0,17}+)(?:\.\d{1,99}+)?+(?:[eE][+-]?\d{1,2}+)?+|NaN|-?Infinity)"
    rb"[ \t\r\n]*+,)++"
)
#: A number that may be beyond a double, which the standard library accepts.
_SUSPECT: Final = re.compile(rb"[eE]\+?\d{3}|\d{300}")
_BOM: Final = b"\xef\xbb\xbf"


def parse(text: bytes) -> Any:
    """Return the first value of a text.

    Raises:
        InvalidInput: There is none; the text is RapidJSON's.

    >>> parse(b'{"a": [1, NaN]} and so on')
    {'a': [1, nan]}
    >>> parse(b'{"a" 1}')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    salver.words.errors.InvalidInput: JSON Parse error: ...
    """
    if not text:
        raise InvalidInput("JSON Parse error: The document is empty")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"{error}"
    if not _SUSPECT.search(text):
        try:
            root = _DECODER.raw_decode(text.removeprefix(_BOM).decode().lstrip(" \t\r\n"))[0]
            if b"\\u" in text:  # it accepts half a surrogate pair, which encode() does not
                json.dumps(root, ensure_ascii=False).encode()
            return root
        except (ValueError, RecursionError):
            pass
    return _Reader(text, place).read()


_DECODER: Final = json.JSONDecoder()


class _Reader:
    """Parser of one text, value by value."""

    def __init__(self, text: bytes, otherwise: str) -> None:
        self._text = text
        self._otherwise = otherwise
        self._at = len(_BOM) if text.startswith(_BOM) else 0
        self._steps = 0

    def read(self) -> Any:
        stack: list[Any] = []
        keys: list[str] = []
        while True:
            value = self._begin(stack, keys)
            if value is _OPENED:
                continue
            while True:  # a value may end several lists and objects
                if not stack:
                    return value
                outer = stack[-1]
                is_list = type(outer) is list
                if is_list:
                    outer.append(value)
                else:
                    outer[keys.pop()] = value
                end = self._next()
                if end == b",":
                    self._at += 1
                    self._continue(outer, keys)
                    break
                if is_list and end != b"]":
                    self._fail("Missing a comma or ] after an array element.")
                if not is_list and end != b"}":
                    self._fail("Missing a comma or } after an object member.")
                self._at += 1
                value = stack.pop()

    def _begin(self, stack: list[Any], keys: list[str]) -> Any:
        """Return a value, or :data:`_OPENED` for a list or object that has elements."""
        first = self._next()
        if first in (b"[", b"{"):
            if len(stack) == MAX_DEPTH:
                raise InvalidInput(f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})")
            self._at += 1
            inner: Any
            inner, end = ([], b"]") if first == b"[" else ({}, b"}")
            if self._next() == end:
                self._at += 1
                return inner
            stack.append(inner)
            self._continue(inner, keys)
            return _OPENED
        if first == b'"':
            return self._string()
        if first in _WORDS:
            word, value = _WORDS[first]
            self._expect(word)
            return value
        if first in (b"", b"\0", b",", b":", b"]", b"}"):
            self._fail("Invalid value." if stack else "The document is empty.")
        return self._number()

    def _continue(self, outer: Any, keys: list[str]) -> None:
        """Read plain numbers of a list, or the next key of an object."""
        if type(outer) is not list:
            keys.append(self._key())
        elif (run := _RUN.match(self._text, self._at)) is not None:
            outer += json.loads(b"[" + run[0][:-1] + b"]")
            self._at = run.end()

    def _next(self) -> bytes:
        """Skip white space and return the next byte; empty at the end."""
        self._count()
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _PATIENCE:
            raise InvalidInput(f"JSON Parse error: {self._otherwise}")

    def _fail(self, problem: str, at: int = -1) -> NoReturn:
        raise InvalidInput(f"JSON Parse error: {problem} at offset: {self._at if at < 0 else at}")

    def _expect(self, word: bytes) -> None:
        for octet in word:
            if self._text[self._at : self._at + 1] != bytes([octet]):
                self._fail("Invalid value.")
            self._at += 1

    def _key(self) -> str:
        if self._next() != b'"':
            self._fail("Missing a name for object member.")
        key = self._string()
        if self._next() != b":":
            self._fail("Missing a colon after a name of object member.")
        self._at += 1
        return key

    def _number(self) -> Any:
        text, start = self._text, self._at
        found = _NUMBER.match(text, start)
        assert found is not None
        whole, fraction, power = found.groups()
        self._at = found.end()
        if whole is None:
            return self._not_finite(is_negative=found[0] == b"-")
        following = text[self._at : self._at + 1]
        if following == b"." and not fraction and not power:
            self._fail("Miss fraction part in number.", self._at + 1)
        if following in (b"e", b"E") and not power:
            signed = text[self._at + 1 : self._at + 2] in (b"+", b"-")
            self._fail("Miss exponent in number.", self._at + 1 + signed)
        if not fraction and not power and len(whole) <= 20 and -(1 << 63) <= int(found[0]) < 1 << 64:
            return int(found[0])
        most = 308 + len(fraction or b".") - 1
        if power and power[1:2] != b"-" and (len(power) > 9 or int(power[1:]) > most):
            self._fail("Number too big to be stored in double.", start)
        value = float(found[0])
        if value in (float("inf"), float("-inf")):
            self._fail("Number too big to be stored in double.", start)
        return value

    def _not_finite(self, *, is_negative: bool) -> float:
        if self._text[self._at : self._at + 1] == b"I":
            self._expect(b"Inf")
            if self._text[self._at : self._at + 1] == b"i":
                self._expect(b"inity")
            return float("-inf" if is_negative else "inf")
        self._expect(b"NaN")
        return float("nan")

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None or b"\\u" in found[0]:
            self._check_string()
        assert found is not None
        self._at = found.end()
        text = found[0].decode("utf-8", "surrogateescape")
        value: str = text[1:-1] if "\\" not in text else json.loads(text)
        return value

    def _check_string(self) -> None:
        """Raise InvalidInput if the string is broken."""
        text, at = self._text, self._at + 1
        while True:
            self._count()
            at = _PLAIN.match(text, at).end()  # type: ignore[union-attr]
            octet = text[at : at + 1]
            if octet == b'"':
                return
            if octet in (b"", b"\0"):
                self._fail("Missing a closing quotation mark in string.", at)
            if octet != b"\\":
                self._fail("Invalid encoding in string.", at)
            escape = text[at + 1 : at + 2]
            if escape == b"u":
                at = self._after_escape(at)
            elif escape and escape in b'"\\/bfnrt':
                at += 2
            else:
                self._fail("Invalid escape character in string.", at)

    def _after_escape(self, at: int) -> int:
        code = self._hexadecimal(at + 2, at)
        if not 0xD800 <= code < 0xE000:
            return at + 6
        is_first = code < 0xDC00 and self._text[at + 6 : at + 8] == b"\\u"
        if is_first and 0xDC00 <= self._hexadecimal(at + 8, at) < 0xE000:
            return at + 12
        self._fail("The surrogate pair in string is invalid.", at)

    def _hexadecimal(self, at: int, escape: int) -> int:
        digits = _HEX.match(self._text, at)
        if digits is None:
            self._fail("Incorrect hex digit after \\u escape in string.", escape)
        return int(digits[0], 16)


_OPENED: Final = object()
_WORDS: Final[dict[bytes, tuple[bytes, Any]]] = {
    b"t": (b"true", True),
    b"f": (b"false", False),
    b"n": (b"null", None),
}
