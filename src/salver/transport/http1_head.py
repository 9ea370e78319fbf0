"""Heads of HTTP/1.1 requests and answers.

Those of requests are parsed strictly by RFC 9112: ambiguous ones are refused, which prevents request
smuggling. Pure.
"""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

#: Preface of an HTTP/2 connection.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Most headers of a head.
MOST_HEADERS: Final = 256
#: Distinct header names that are remembered.
_KNOWN_NAMES: Final = 1024
#: Heads that are remembered.
_KNOWN_HEADS: Final = 512
_SHORT: Final = 1024
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
METHOD: Final = _TOKEN + rb"{1,64}"
TARGET: Final = rb"[\x21-\x7e\x80-\xff]+"
_LINE: Final = re.compile(rb"(" + METHOD + rb") (" + TARGET + rb") HTTP/1\.([01])")
_NAME: Final = re.compile(_TOKEN + rb"+")
_BREAKS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_MOST_DIGITS: Final = 18
Headers = tuple[tuple[bytes, bytes], ...]
#: Reason phrases of known statuses.
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus if status != 418} | {
    413: "Request Entity Too Large"
}
#: Reason phrases of unknown statuses by their first digit, as in TorchServe's front end.
_KINDS: Final = {1: "Informational", 2: "Success", 3: "Redirection", 4: "Client Error", 5: "Server Error"}
_BODILESS: Final = frozenset((204, 304))


class _Malformed(Exception):
    """Error of a malformed head."""


class Head(NamedTuple):
    """Parsed head of a request.

    Attributes:
        headers, spelled: Headers with names in lower case, and as they were sent.
        length: Bytes of the body; -1 = chunked.
        keeps: The connection may serve more requests.
        expects: The caller waits for ``100 Continue`` before it sends the body.
        notes: Values that others cache by head; equal heads share one object.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: Headers
    spelled: Headers
    length: int
    keeps: bool
    expects: bool
    notes: dict[object, Any]


class Heads:
    """Parser with a cache of heads, since a client's heads are mostly identical.

    Args:
        facts: Added behind the headers of each head.

    Attributes:
        known: Parsed heads by their text, without the final empty line.
    """

    def __init__(self, facts: Headers = ()) -> None:
        self._facts = facts
        self._names: dict[bytes, bytes] = {}  # of headers, as sent -> in lower case
        self.known: dict[bytes, Head] = {}

    def __repr__(self) -> str:
        return f"<Heads, {len(self.known)} known>"

    def parse(self, text: bytes) -> Head | None:
        """Parse a head without its final empty line; return None if it is malformed.

        >>> Heads().parse(b"GET /ping?a HTTP/1.1\\r\\nX-One: 1")[:4]
        ('GET', b'/ping', b'a', '1.1')
        """
        head = self.known.get(text)
        if head is None:
            try:
                head = _parsed(text.split(b"\r\n"), self._names)
            except _Malformed:
                return None
            if self._facts:
                head = head._replace(headers=head.headers + self._facts)
            # Long heads differ each time (cookies, tokens), and would push the others out.
            if len(text) <= _SHORT:
                if len(self.known) >= _KNOWN_HEADS:
                    self.known.clear()
                self.known[text] = head
        return head


def _parsed(lines: list[bytes], names: dict[bytes, bytes]) -> Head:
    first = _LINE.fullmatch(lines[0])
    if first is None or len(lines) > MOST_HEADERS:
        raise _Malformed
    method, target, minor = first.groups()
    headers, spelled = _headers(lines, names)
    known = dict(headers)
    version = "1.1" if minor == b"1" else "1.0"
    # Two hosts: a proxy may have decided by the other one (RFC 9112, section 3.2).
    if len(known) != len(headers) and [name for name, _ in headers].count(b"host") > 1:
        raise _Malformed
    length = _length(headers, known, version)
    if not target.startswith(b"/"):
        target = _origin_form(method, target)
    # No client should send a fragment, but what comes after the sign is no part of the path.
    path, _, query = target.partition(b"#")[0].partition(b"?")
    connection = b",".join(value for name, value in headers if name == b"connection").lower()
    # HTTP/1.1 keeps connections unless told otherwise; 1.0 only if told to.
    keeps = b"close" not in connection if version == "1.1" else b"keep-alive" in connection
    expects = b"expect" in known and version == "1.1"
    if expects and known[b"expect"].lower() != b"100-continue":
        raise _Malformed
    verb = method.decode("ascii")
    return Head(verb, path, query, version, headers, spelled, length, keeps, expects, {})


def _headers(lines: list[bytes], names: dict[bytes, bytes]) -> tuple[Headers, Headers]:
    headers: list[tuple[bytes, bytes]] = []
    spelled: list[tuple[bytes, bytes]] = []
    for index in range(1, len(lines)):
        name, colon, value = lines[index].partition(b":")
        lower = names.get(name)
        if lower is None:
            if not _NAME.fullmatch(name):  # also refuses a space before the colon
                raise _Malformed
            lower = name.lower()
            if len(names) < _KNOWN_NAMES:
                names[name] = lower
        value = value.strip(b" \t")
        if not colon or _BREAKS.search(value):
            raise _Malformed
        headers.append((lower, value))
        spelled.append((name, value))
    return tuple(headers), tuple(spelled)


def _length(headers: Headers, known: dict[bytes, bytes], version: str) -> int:
    """Return the body's length (RFC 9112, section 6.3); refuse contradictory lengths, which are an attack."""
    length = known.get(b"content-length")
    if b"transfer-encoding" in known:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        # A proxy that believes the other length would see a second request in the body (smuggling).
        if codings != [b"chunked"] or length is not None or version == "1.0":
            raise _Malformed
        return -1
    if length is None:
        return 0
    if not length.isdigit() or len(length) > _MOST_DIGITS:
        raise _Malformed
    if len(known) != len(headers) and len({v for name, v in headers if name == b"content-length"}) > 1:
        raise _Malformed
    return int(length)


def _origin_form(method: bytes, target: bytes) -> bytes:
    if found := _ABSOLUTE.match(target):
        rest = target[found.end() :]
        return rest if rest.startswith(b"/") else b"/" + rest
    if target == b"*" and method == b"OPTIONS":
        return b"/"
    raise _Malformed


@lru_cache(256)
def begun_of(status: int, headers: Headers) -> bytes:
    """Return the beginning of a reply's head, up to the value of its length."""
    begun = head_of({"status": status, "headers": headers}, 0, "1.1", True)[0]
    return begun.removesuffix(b"content-length: 0\r\n\r\n")


def is_bodiless(status: int) -> bool:
    """Return whether answers with this status have no body, whatever their headers say."""
    return status in _BODILESS


def head_of(start: dict[str, Any], size: int | None, version: str, keeps: bool) -> tuple[bytes, bool, bool]:
    """Return the head of an answer, whether the connection stays open, and whether the body comes in chunks.

    Args:
        start: ASGI's ``http.response.start``.
        size: Bytes of the body; None = it is sent in pieces.
        version, keeps: Properties of the request's head.
    """
    status, phrase = start["status"], start.get("reason")
    if phrase is None:
        phrase = PHRASES.get(status) or f"{_KINDS.get(status // 100, 'Unknown Status')} ({status})"
    lines = [b"HTTP/1.1 %d %b" % (status, phrase.encode("latin-1", "replace"))]
    has_length, closes, is_said, is_chunked = False, not keeps, False, False
    for name, value in start["headers"]:
        if name == b"connection":
            closes = closes or value == b"close"
            is_said = True
            continue
        has_length = has_length or name == b"content-length"
        lines.append(b"%b: %b" % (name, value))
    if not has_length and status not in _BODILESS:
        if size is not None:
            lines.append(b"content-length: %d" % size)
        elif version == "1.1":
            is_chunked = True
            lines.append(b"transfer-encoding: chunked")
        else:
            closes = True
    if is_said or closes or version == "1.0":
        lines.append(b"connection: close" if closes else b"connection: keep-alive")
    lines.append(b"\r\n")
    return b"\r\n".join(lines), not closes, is_chunked
