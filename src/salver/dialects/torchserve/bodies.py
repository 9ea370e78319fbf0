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
from salver.words.errors import InvalidInput
from salver.words.handlers import Form, Part, part

#: More than any form has; keeps the cost of a request proportional to its bytes.
MOST_PARTS: Final = 1024
_MOST_HEAD: Final = 8192
#: Bytes of a form up to which parsing takes a few milliseconds.
LARGE: Final = 1 << 16
#: Bytes of one step through a body, after which other threads can run.
_STEP: Final = 1 << 20
_MULTIPART: Final = "multipart/form-data"
_URLENCODED: Final = "application/x-www-form-urlencoded"
#: Default content type of a file.
_OCTETS: Final = "application/octet-stream"
_ENCODINGS: Final = frozenset(("7bit", "8bit", "binary"))
_HEX: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BLANK: Final = re.compile(rb"[\x00-\x20\x7f]*")
_LINE: Final = re.compile(rb"\r?\n")
#: Parameters of a header: between semicolons that are not quoted.
_PARAMETER: Final = re.compile(r'(?:[^;"\\]++|\\.|"(?:[^"\\]++|\\.)*+"?)++', re.DOTALL)
#: What Netty makes of marks in a quoted value.
_MARKS: Final = str.maketrans({**dict.fromkeys(":,=;\t", " "), '"': None})
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
    if mime == _MULTIPART and "boundary" in rest.lower():
        fields = _multipart(body, _boundary(rest))
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
    return len(body) > LARGE and content_type.lower().lstrip().startswith((_MULTIPART, _URLENCODED))


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


def _boundary(parameters: str) -> bytes:
    for parameter in _PARAMETER.findall(parameters):
        name, _, value = parameter.partition("=")
        mark: str = value.strip().strip('"')
        if name.strip().lower() == "boundary" and mark:
            return b"--" + mark.encode("latin-1", "replace")
    raise _broken("Needs a boundary value")


def _multipart(body: bytes, boundary: bytes) -> Iterator[Part]:
    """Yield the fields from the first byte on, up to the first that does not end."""
    view = memoryview(body)
    # Netty skips control characters before the first boundary.
    blank = _BLANK.match(body, 0, _MOST_HEAD)
    if blank is None or not body.startswith(boundary, blank.end()):
        return
    end = blank.end() + len(boundary)
    count = 0
    while line := _LINE.match(body, end):
        count += 1
        if count > MOST_PARTS + 1:  # the caller raises the error
            return
        head = _head(body, line.end())
        if head is None:
            return
        name, content_type, begin = head
        following = _following(body, begin, boundary)
        if following is None:
            return
        data_end, end = following
        yield part(name, view[begin:data_end], content_type)


def _head(body: bytes, begin: int) -> tuple[str, str, int] | None:
    """Return name and content type of a field, and the start of its data; None if its headers do not end."""
    name: str | None = None
    is_file = False
    content_type = _OCTETS
    encoding = ""
    limit = begin + _MOST_HEAD
    while end := _LINE.search(body, begin, limit):
        line = body[begin : end.start()]
        begin = end.end()
        if not line:
            if name is None:
                raise _broken("a field has no name in its Content-Disposition")
            if is_file and encoding and encoding not in _ENCODINGS:
                raise _broken(f"TransferEncoding Unknown: {encoding}")
            return _named(name), content_type if is_file else "", begin
        header, _, value = line.decode("utf-8", "replace").partition(":")
        match header.strip().lower():
            case "content-disposition":
                name, is_file = _disposition(value)
            case "content-type":
                content_type = value.partition(";")[0].strip() or _OCTETS
            case "content-transfer-encoding":
                encoding = value.strip().lower()
    if len(body) > limit:
        raise InvalidInput(
            f"the headers of a field are longer than {_MOST_HEAD} bytes", field="body", fix="Shorten them."
        )
    return None


def _disposition(value: str) -> tuple[str | None, bool]:
    """Return the name of a field, and whether it is a file."""
    name, is_file = None, False
    for parameter in _PARAMETER.findall(value):
        key, _, text = parameter.partition("=")
        match key.strip().lower():
            case "name":
                name = text.translate(_MARKS).strip()
            case "filename" | "filename*":
                is_file = True
    return name, is_file


def _following(body: bytes, begin: int, boundary: bytes) -> tuple[int, int] | None:
    """Return the ends of data that begin there and of the boundary after them; None if there is none."""
    if body.startswith(boundary, begin):  # no data, and not even the line that ends them
        return begin, begin + len(boundary)
    at = _find(body, b"\n" + boundary, begin)
    if at < 0:
        return None
    has_return = at > begin and body[at - 1] == 13
    return at - has_return, at + 1 + len(boundary)


def _find(body: bytes, mark: bytes, begin: int) -> int:
    """Return what ``body.find`` does, in steps, so that other threads can run in between."""
    for at in range(begin, len(body), _STEP):
        if (found := body.find(mark, at, at + _STEP + len(mark))) >= 0:
            return found
    return -1
