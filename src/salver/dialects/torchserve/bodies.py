"""Parsing of requests to handlers into forms.

A body is one part named ``body``, or a form with a part for each field (TS-R12). Forms are parsed as
TorchServe's server does: what follows a malformed field is ignored, and the last field of a name wins. Parts
are views of the body, and are not decoded here. Pure.
"""

import re
from binascii import a2b_qp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from salver.dialects.torchserve.faults import NamedFault
from salver.encoding.multipart import MOST_PARTS, MULTIPART, multipart
from salver.words.errors import InvalidInput
from salver.words.handlers import Form, Part, part

#: Bytes of a form up to which parsing takes a few milliseconds.
LARGE: Final = 1 << 16
#: Bytes of one step through a body, after which other threads can run.
_STEP: Final = 1 << 20
_URLENCODED: Final = "application/x-www-form-urlencoded"
_HEX: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NO_HEADERS: Final[Mapping[str, str]] = {}


def read_form(
    body: bytes,
    content_type: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    query: Sequence[tuple[str, str]] = (),
) -> Form:
    """Return the form that a body and a query make.

    Args:
        content_type: Content type as sent; empty = none.
        headers: Headers of the call, for the handler.
        query: Parts that come before those of the body.

    Raises:
        InvalidInput: there are too many parts.
        NamedFault: a field has no name, or is not encoded correctly.

    >>> found = read_form(b"a=1&b=%41", "application/x-www-form-urlencoded")
    >>> [(each.name, each.data.tobytes()) for each in found.parts]
    [('a', b'1'), ('b', b'A')]
    """
    mime, _, rest = content_type.partition(";")
    fields: Iterable[Part]
    if mime == MULTIPART and "boundary" in rest.lower():
        found = multipart(body, content_type, _broken)
        fields = (part(_named(each.name), each.data, each.content_type) for each in found)
    elif mime.lower().strip() == _URLENCODED:
        fields = _urlencoded(body)
    else:
        whole = part("body", body, mime)
        if not query:
            return Form((whole,), headers)
        fields = (whole,)
    before = [part(name, value.encode("utf-8", "replace")) for name, value in query]
    return Form(_without_duplicates([*before, *fields]), headers)


def is_large(body: bytes, content_type: str) -> bool:
    """Return whether this is a form so large that it must be parsed on a thread."""
    return len(body) > LARGE and content_type.lower().lstrip().startswith((MULTIPART, _URLENCODED))


def query_of(text: bytes, path: bytes = b"") -> list[tuple[str, str]]:
    """Return the parameters of a query string, in order.

    Args:
        path: Path before it, for error messages.

    Raises:
        NamedFault: a byte is not percent-encoded correctly.
    """
    if not text:
        return []
    if b"%" in text:
        check_escapes(path + b"?" + text)
    found = []
    # Netty splits at semicolons as well, and ignores parameters beyond its limit.
    for piece in re.split(b"[&;]", text, maxsplit=MOST_PARTS)[:MOST_PARTS]:
        if piece:
            name, _, value = piece.partition(b"=")
            if name:
                found.append((_decoded(name), _decoded(value)))
    return found


def _decoded(text: bytes) -> str:
    if b"%" in text or b"+" in text:
        text = unquote_to_bytes(text.replace(b"+", b" "))
    return text.decode("utf-8", "replace")


def check_escapes(target: bytes) -> None:
    """Check the escapes in a request's target. Raises NamedFault for an incomplete one."""
    wrong = _HEX.search(target)
    if wrong is None:
        return
    at, shown = wrong.start(), target[:256].decode("utf-8", "replace")
    digits = target[at + 1 : at + 3].decode("latin-1")
    if len(digits) < 2:
        raise NamedFault(
            f"unterminated escape sequence at index {at} of: {shown}", 403, "IllegalArgumentException"
        )
    raise NamedFault(
        f"invalid hex byte '{digits}' at index {at + 1} of '{shown}'", 403, "IllegalArgumentException"
    )


def _without_duplicates(parts: Sequence[Part]) -> tuple[Part, ...]:
    if len(parts) > MOST_PARTS:
        raise InvalidInput(
            f"the request has more than {MOST_PARTS} fields", field="body", fix="Send fewer, larger ones."
        )
    return tuple({each.name: each for each in parts}.values())


def _urlencoded(body: bytes) -> Iterator[Part]:
    """Yield fields up to the end of the first line; ignore a last one without ``=``."""
    for mark in (b"\r", b"\n"):
        if (end := body.find(mark)) >= 0:
            body = body[:end]
    pieces = body.split(b"&", MOST_PARTS + 1)  # one more than allowed, so that excess is noticed
    if b"=" not in pieces[-1]:
        pieces.pop()
    for piece in pieces:
        name, _, value = piece.partition(b"=")
        yield part(_named(_unquoted(name).decode("utf-8", "replace")), _unquoted(value))


def _unquoted(text: bytes) -> bytes:
    if b"%" not in text and b"+" not in text:
        return text
    out = bytearray()
    at = 0
    while at < len(text):
        end = at + _STEP
        # A step must not end inside an escape.
        if end < len(text) and (escape := text.find(b"%", end - 2, end)) >= 0:
            end = escape
        piece = text[at:end]
        # Quoted-printable differs by the escape sign only, and its decoder is a hundred times as fast.
        found = a2b_qp(piece.replace(b"=", b"=3D").replace(b"+", b" ").replace(b"%", b"="))
        if len(found) != len(piece) - 2 * piece.count(b"%") and (wrong := _HEX.search(piece)):
            shown = text[:256].decode("utf-8", "replace")
            raise _broken(f"Invalid hex byte at index '{at + wrong.start()}' in string: '{shown}'")
        out += found
        at = end
    return bytes(out)


def _named(name: str) -> str:
    if not name:
        raise _broken("java.lang.IllegalArgumentException: empty name")
    return name


def _broken(message: str) -> NamedFault:
    return NamedFault(message, 500, "ErrorDataDecoderException")
