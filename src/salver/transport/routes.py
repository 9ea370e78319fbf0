"""HTTP router over the tables of operations of all dialects.

Paths are matched undecoded and names are decoded afterwards, so that a name may contain ``%2F``.

Pure.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from salver.encoding.bodies import HttpBody, HttpReply
from salver.transport.faults import http_fault
from salver.transport.restrict import Right, group_of_path, right_of
from salver.words.errors import InvalidInput, NoRoute, SalverError, WrongVerb
from salver.words.messages import Call

Headers = tuple[tuple[bytes, bytes], ...]


class Operation(msgspec.Struct, frozen=True):
    """Verb and path of an operation; ``{model}`` and ``{version}`` match one segment each.

    Attributes:
        changes: The operation changes something, and callers need a permission (``access_check.py``).
        is_matched: The router matches the path; else the dialect does (``HttpTable.find``).
        right: Right that callers need where the server has keys; empty = by group and ``changes``.
        takes_raw: It is only there, and described, where models take raw inputs.
    """

    name: str
    verb: str
    path: str
    summary: str
    changes: bool = False
    is_matched: bool = True
    right: Right | Literal[""] = ""
    takes_raw: bool = False


class Route(msgspec.Struct, frozen=True, gc=False):
    """Operation and parameters of a path.

    Attributes:
        path: The whole path, if a model's name may span several segments or an error names the path.
    """

    operation: str
    model: str = ""
    version: str = ""
    request: str = ""
    region: str = ""
    label: str = ""
    path: str = ""


Write = Callable[[HttpReply], Awaitable[None]]
Method = Callable[[Route, HttpBody, Call], Awaitable[HttpReply]]
#: Receives a reply; or None and the writer of a streamed reply.
Tell = Callable[[HttpReply | None, Any], None]
#: Answers through a callback; returns a function that cancels, or None if ``Endpoint.run`` must be called.
PostMethod = Callable[[Route, HttpBody, Call, Tell], Callable[[], None] | None]
#: Streams the answer through the writer and returns None, or returns one reply.
StreamMethod = Callable[[Route, HttpBody, Call, Write], Awaitable[HttpReply | None]]


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """Implementation of an operation, with its requirements on the transport.

    Attributes:
        run: Returns the whole reply; None = ``stream`` answers.
        stream: Writes the reply in pieces.
        is_large: Large bodies are plausible.
        is_compressible: Compress replies if the caller accepts that.
        refuses_compressed: Refuse compressed request bodies.
        most_inflated: Most bytes of an inflated request body; 0 = the limit of all bodies.
        timeout_s: Seconds that a call may take; 0 = no limit.
        post: Answers small requests without a task; None = a task is needed.
        lead: Returns the bytes before the tensors of a large body, which is then received whole; None = it is
            not, because ``post`` does not answer it.
        foresee: Refuses a request of which only the head has come, by raising; None = none is refused so.
        load_report: Returns the headers with a model's load, in the caller's form (``orca.py``).
        filters: The reply leaves out the models that the caller may not read.
        changes, group, right: Set by the router from the operation's rows.
    """

    run: Method | None = None
    stream: StreamMethod | None = None
    is_large: bool = False
    is_compressible: bool = False
    refuses_compressed: bool = False
    most_inflated: int = 0
    timeout_s: float = 0.0
    post: PostMethod | None = None
    lead: Callable[[Route, Mapping[bytes, bytes]], int | None] | None = None
    foresee: Callable[[Route, Call], None] | None = None
    load_report: Callable[[Route, bytes], Headers] | None = None
    filters: bool = False
    changes: bool = True
    group: str = ""
    right: Right = "models"


#: Endpoint of a request whose path has not been matched.
NO_ENDPOINT: Final = Endpoint()


class HttpTable(msgspec.Struct, frozen=True):
    """The HTTP operations of one dialect.

    Attributes:
        operations: Verbs and paths, as listed in the API description.
        endpoints: Implementations by operation name.
        fault: Formats an error of the dialect.
        owns: Whether errors at a raw path have the dialect's format; None = those that no other dialect owns.
        find: Finds the route of a raw path that no row matches; None = not a path of this dialect. May raise.
        headers: Returns further headers for each answer at a raw path; None = no further headers.
        reads: Operations without a row that change nothing.
    """

    operations: tuple[Operation, ...]
    endpoints: Mapping[str, Endpoint]
    fault: Callable[[SalverError], HttpReply]
    owns: Callable[[bytes], bool] | None = None
    find: Callable[[str, bytes], Route | None] | None = None
    headers: Callable[[bytes], Headers] | None = None
    reads: frozenset[str] = frozenset()


#: Parameters of paths, as :class:`Route` has them.
_NAMES: Final = ("model", "version", "request", "region")
#: Segment of a path: text before, parameter name (empty = a literal segment), text after.
_Segment = tuple[str, str, str]


class HttpRouter:
    """Finds the route and the endpoint of a verb and a path, in the tables of all dialects."""

    def __init__(self, tables: Sequence[HttpTable]) -> None:
        self.operations = tuple(row for table in tables for row in table.operations)
        self.endpoints = _Endpoints(tables)
        self.headers = next((table.headers for table in tables if table.headers is not None), None)
        self._finders = [table.find for table in tables if table.find is not None]
        self._owners = [(table.owns, table.fault) for table in tables if table.owns is not None]
        self._fault = next((table.fault for table in tables if table.owns is None), http_fault)
        #: Number of segments -> rows, the literal ones first.
        self._rows: dict[int, list[tuple[Operation, tuple[_Segment, ...]]]] = {}
        for row in sorted(self.operations, key=lambda row: row.path.count("{")):
            if row.is_matched:
                segments = _segments(row.path)
                self._rows.setdefault(len(segments), []).append((row, segments))

    def __repr__(self) -> str:
        return f"<HttpRouter {len(self.operations)} operations>"

    def fault_at(self, raw_path: bytes) -> Callable[[SalverError], HttpReply]:
        """Return the function that formats errors at a path."""
        for owns, fault in self._owners:
            if owns(raw_path):
                return fault
        return self._fault

    def find(self, verb: str, raw_path: bytes) -> tuple[Route, Endpoint]:
        """Return the route of a raw path and its endpoint; raises as :meth:`match`."""
        route = self.match(verb, raw_path)
        return route, self.endpoints[route.operation]

    def match(self, verb: str, raw_path: bytes) -> Route:
        """Return the route of a raw path.

        Raises:
            NoRoute: there is none ("Not Found").
            WrongVerb: there is one for another verb ("Method Not Allowed").
            InvalidInput: a name is not UTF-8, or the dialect has no such path (TF-R7).
        """
        parts = raw_path.decode("latin-1").split("/")
        if parts[0]:
            raise NoRoute("Not Found")
        del parts[0]
        has_other_verb = False
        for row, segments in self._rows.get(len(parts), ()):
            names = _names(parts, segments)
            if names is None:
                continue
            if row.verb == verb or (verb == "HEAD" and row.verb == "GET"):
                return Route(row.name, *(unquoted(names.get(name, "")) for name in _NAMES))
            # A segment that is neither a number nor a label is not a version, so the path is unknown
            # (TR-R18).
            has_other_verb = has_other_verb or names.get("version", "0").isdecimal()
        for find in self._finders:
            if (route := find(verb, raw_path)) is not None:
                return route
        if has_other_verb:
            raise WrongVerb("Method Not Allowed")
        raise NoRoute("Not Found")


class _Endpoints(Mapping[str, Endpoint]):
    """Endpoints by operation name; each table is read when one of its operations is first called."""

    def __init__(self, tables: Sequence[HttpTable]) -> None:
        self._tables = tables
        self._of = {row.name: table for table in tables for row in table.operations}
        self._found: dict[str, Endpoint] = {}

    def __getitem__(self, name: str) -> Endpoint:
        if name not in self._found:
            table = self._of.get(name)
            for each in self._tables if table is None else (table,):
                self._found.update(_completed(each))
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        for table in self._tables:
            yield from table.endpoints

    def __len__(self) -> int:
        return sum(len(table.endpoints) for table in self._tables)


def _completed(table: HttpTable) -> list[tuple[str, Endpoint]]:
    """Return the endpoints of a table, completed from its rows."""
    reads = {row.name for row in table.operations if not row.changes} | table.reads
    groups = {row.name: group_of_path(row.verb, row.path) for row in table.operations}
    rights = {row.name: row.right for row in table.operations if row.right}
    found = []
    for name, each in table.endpoints.items():
        changes, group = name not in reads, groups.get(name, "")
        right = rights.get(name) or right_of(group, changes=changes)
        found.append((name, msgspec.structs.replace(each, changes=changes, group=group, right=right)))
    return found


def _segments(path: str) -> tuple[_Segment, ...]:
    out = []
    for segment in path.strip("/").split("/"):
        before, brace, rest = segment.partition("{")
        parameter, _, after = rest.partition("}")
        out.append((before, parameter if brace else "", after))
    return tuple(out)


def _names(parts: Sequence[str], segments: Sequence[_Segment]) -> dict[str, str] | None:
    """Return the parameters of a path; None if it does not match."""
    names: dict[str, str] = {}
    for part, (before, parameter, after) in zip(parts, segments, strict=True):
        if not parameter:
            if part != before:
                return None
        elif part.endswith(after) and len(part) > len(after):
            names[parameter] = part[: len(part) - len(after)] if after else part
        else:
            return None
    return names


def unquoted(quoted: str) -> str:
    """Decode a name in a path.

    Raises:
        InvalidInput: it is not UTF-8.
    """
    if "%" not in quoted and quoted.isascii():
        return quoted
    try:
        return unquote_to_bytes(quoted.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "a name in the path is not valid UTF-8", field="path", fix="Percent-encode its UTF-8 bytes."
        ) from error
