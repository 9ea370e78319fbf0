"""Parsing of ``multipart/form-data`` into views of its parts.

Fields are found as Netty, TorchServe's server, finds them: what follows a malformed field is ignored. Every
search is bounded, and the cost is proportional to the bytes. Pure.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from salver.words.errors import InvalidInput, SalverError

#: More than any form has; keeps the cost of a request proportional to its bytes.
MOST_PARTS: Final = 1024
MULTIPART: Final = "multipart/form-data"
_MOST_HEAD: Final = 8192
#: Bytes of one step through a body, after which other threads can run.
_STEP: Final = 1 << 20
#: Default content type of a file.
_OCTETS: Final = "application/octet-stream"
_ENCODINGS: Final = frozenset(("7bit", "8bit", "binary"))
_BLANK: Final = re.compile(rb"[\x00-\x20\x7f]*")
_LINE: Final = re.compile(rb"\r?\n")
#: Parameters of a header: between semicolons that are not quoted.
_PARAMETER: Final = re.compile(r'(?:[^;"\\]++|\\.|"(?:[^"\\]++|\\.)*+"?)++', re.DOTALL)
#: What Netty makes of marks in a quoted value.
_MARKS: Final = str.maketrans({**dict.fromkeys(":,=;\t", " "), '"': None})

Broken = Callable[[str], SalverError]


class FormPart(NamedTuple):
    """Field of a form; its content type is empty unless it is a file. Its name may be empty, too."""

    name: str
    data: memoryview
    content_type: str


def multipart(body: bytes, content_type: str, broken: Broken) -> Iterator[FormPart]:
    """Yield the fields from the first byte on, up to the first that does not end.

    Yields at most one field more than :data:`MOST_PARTS`.

    Args:
        broken: Makes the error for a malformed field.

    Raises:
        SalverError: the content type has no boundary, or a field has no name or an unknown encoding.
        InvalidInput: the headers of a field are too long.
    """
    boundary = _boundary(content_type, broken)
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
        head = _head(body, line.end(), broken)
        if head is None:
            return
        name, kind, begin = head
        following = _following(body, begin, boundary)
        if following is None:
            return
        data_end, end = following
        yield FormPart(name, view[begin:data_end], kind)


def _boundary(content_type: str, broken: Broken) -> bytes:
    for parameter in _PARAMETER.findall(content_type.partition(";")[2]):
        name, _, value = parameter.partition("=")
        mark: str = value.strip().strip('"')
        if name.strip().lower() == "boundary" and mark:
            return b"--" + mark.encode("latin-1", "replace")
    raise broken("Needs a boundary value")


def _head(body: bytes, begin: int, broken: Broken) -> tuple[str, str, int] | None:
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
                raise broken("a field has no name in its Content-Disposition")
            if is_file and encoding and encoding not in _ENCODINGS:
                raise broken(f"TransferEncoding Unknown: {encoding}")
            return name, content_type if is_file else "", begin
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
