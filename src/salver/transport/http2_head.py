"""Head of an HTTP/2 request, decoded from its header block (RFC 9113, section 8.3)."""

import re
from typing import Any, Final

import hpack

from salver.transport.budget import MOST_HEAD
from salver.transport.http1_head import METHOD, MOST_HEADERS, TARGET, Head, Headers
from salver.words.errors import InvalidInput, TooLarge

_KNOWN_HEADS: Final = 256
#: Pseudo-headers, and what they may say: nothing that would end a line of HTTP/1.1 or a part of one.
_PSEUDO: Final = {
    b":method": re.compile(METHOD),
    b":path": re.compile(rb"/|/" + TARGET + rb"|\*"),
    b":scheme": re.compile(TARGET),
    b":authority": re.compile(rb"|" + TARGET),
}
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
#: Connection-specific headers, which HTTP/2 forbids (section 8.2.2).
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_MOST_DIGITS: Final = 18
#: Headers that two readers would take differently if they stood there with two values.
_SINGLE: Final = frozenset((b"host", b"content-length"))
_BAD_VALUE: Final = frozenset(b"\x00\r\n")
#: More changes of the dynamic table's size than any encoder needs (RFC 7541, section 4.2).
_SIZES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){17}")


class Http2Heads:
    """Parser of the heads of one connection, with a cache by header block.

    Equal blocks mean the same as long as HPACK's dynamic table is the same, so the cache is cleared when a
    block changes the table.

    Args:
        facts: Added behind the headers of each head.
    """

    def __init__(self, facts: Headers = ()) -> None:
        self._facts = facts
        self._decoder = hpack.Decoder(max_header_list_size=MOST_HEAD)
        self._known: dict[bytes, Head | None] = {}

    def read(self, block: bytes) -> Head | None:
        """Return the head; None = it is malformed, which ends its stream.

        Raises:
            TooLarge, InvalidInput: the headers are too large or cannot be decoded; the connection has to end.
        """
        known = self._known
        if block in known:
            return known[block]
        if len(block) > MOST_HEAD:
            raise TooLarge(f"the header block has more than {MOST_HEAD} bytes")
        if _SIZES.match(block):
            raise InvalidInput("the header block changes the table's size too often")
        table = self._decoder.header_table
        before = _mark(table)  # keeps the newest entry alive, so that no new object gets its identity
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError:
            raise TooLarge(f"the headers have more than {MOST_HEAD} bytes") from None
        except hpack.HPACKError:
            raise InvalidInput("the header block cannot be decoded") from None
        head = head_of(fields)
        if self._facts and head is not None:
            head = head._replace(headers=head.headers + self._facts)
        if not _is_same(before, _mark(table)):
            known.clear()
        elif len(block) <= MOST_HEAD // 64 and len(known) < _KNOWN_HEADS:
            known[block] = head
        return head


def _mark(table: Any) -> tuple[object, int, int]:
    """Return a mark of the dynamic table's state: its newest entry, number of entries and size limit."""
    entries = table.dynamic_entries
    return entries[0] if entries else None, len(entries), table.maxsize


def _is_same(before: tuple[object, int, int], after: tuple[object, int, int]) -> bool:
    """Compare two marks; an added entry is a new object, even if it equals an older one."""
    return before[0] is after[0] and before[1:] == after[1:]


def head_of(fields: list[tuple[bytes, bytes]]) -> Head | None:
    """Return the head that header fields make; None if it is malformed.

    >>> head_of([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b"x-y", b"1")])[:4]
    ('GET', b'/a', b'b', '2')
    """
    pseudo: dict[bytes, bytes] = {}
    headers: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            form = _PSEUDO.get(name)
            if headers or name in pseudo or form is None or not form.fullmatch(value):
                return None
            pseudo[name] = value
        elif _is_good(name, value):
            headers.append((name, value))
        else:
            return None
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not (method and path and b":scheme" in pseudo) or len(headers) > MOST_HEADERS:
        return None
    known = dict(headers)
    if len(known) != len(headers):
        single = {header for header in headers if header[0] in _SINGLE}
        if len(single) > len({name for name, _ in single}):
            return None
    if b":authority" in pseudo:
        headers = [(b"host", pseudo[b":authority"]), *(h for h in headers if h[0] != b"host")]
    length = known.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) <= _MOST_DIGITS):
        return None
    path, _, query = path.partition(b"#")[0].partition(b"?")
    size = -1 if length is None else int(length)
    same = tuple(headers)
    return Head(method.decode("ascii"), path, query, "2", same, same, size, True, b"expect" in known, {})


def _is_good(name: bytes, value: bytes) -> bool:
    if name in _OF_CONNECTIONS or not _NAME.fullmatch(name) or not _BAD_VALUE.isdisjoint(value):
        return False
    return name != b"te" or value == b"trailers"
