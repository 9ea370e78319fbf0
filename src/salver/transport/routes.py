"""The router of HTTP: a table of operations for each dialect, and a matcher over all of them.

Paths are matched raw and names decoded afterwards, so that a name may hold ``%2F`` (X-26).

Pure.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from salver.encoding.bodies import HttpBody, HttpReply
from salver.transport.faults import http_fault
from salver.transport.restrict import group_of_path
from salver.words.errors import InvalidInput, NoRoute, SalverError, WrongVerb
from salver.words.messages import Call

Headers = tuple[tuple[bytes, bytes], ...]


class Operation(msgspec.Struct, frozen=True):
    """One verb and path: ``{model}`` and ``{version}`` match one segment each.

    Attributes:
        changes: It changes what is served, logged or shared; callers need a permission (``access_check.py``).
        is_matched: Paths are matched here; else the dialect has a grammar of its own (``HttpTable.find``).
    """

    name: str
    verb: str
    path: str
    summary: str
    changes: bool = False
    is_matched: bool = True


class Route(msgspec.Struct, frozen=True, gc=False):
    """What a path asks for.

    Attributes:
        path: The whole of it, where a model's name may be longer than it looks (X-26), or an error names it.
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
#: Takes a reply; or None, and what writes the pieces of one.
Tell = Callable[[HttpReply | None, Any], None]
#: Answers through a callback; returns what gives the request up, or None if ``Endpoint.run`` is to be called.
PostMethod = Callable[[Route, HttpBody, Call, Tell], Callable[[], None] | None]
#: Answers in pieces that go to a writer, with None; or with one reply.
StreamMethod = Callable[[Route, HttpBody, Call, Write], Awaitable[HttpReply | None]]


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """What an operation does, and what the transport has to know of it.

    Attributes:
        run: Answers with one reply; None = ``stream`` answers.
        is_large: Large bodies make sense.
        is_compressible: Replies are compressed where the caller accepts that.
        refuses_compressed: Bodies of requests have to come as they are.
        most_inflated: Most bytes of a body that came compressed; 0 = as of every body.
        timeout_s: Seconds that a call may take; 0 = as many as it likes.
        post: Answers small requests without a task; None = it needs one.
        load_report: Headers that tell how full a model is, in the form that the caller wants (``orca.py``).
        changes, group: Set by the router, from the operation's rows.
    """

    run: Method | None = None
    stream: StreamMethod | None = None
    is_large: bool = False
    is_compressible: bool = False
    refuses_compressed: bool = False
    most_inflated: int = 0
    timeout_s: float = 0.0
    post: PostMethod | None = None
    load_report: Callable[[Route, bytes], Headers] | None = None
    changes: bool = True
    group: str = ""


#: In place of the endpoint of a request whose path is not known yet.
NO_ENDPOINT: Final = Endpoint()


class HttpTable(msgspec.Struct, frozen=True):
    """The HTTP operations of one dialect.

    Attributes:
        operations: Verbs and paths, as the description of the interface lists them.
        endpoints: What each operation does, by its name.
        fault: Lays out an error of the dialect.
        owns: Whether errors at a raw path are the dialect's; None = those that nobody else owns are.
        find: Finds the route of a raw path that no row matches; None = not this dialect's. It may raise.
        headers: Further headers of each answer at a raw path; None = there are none.
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
#: A segment of a path: text before, name of the parameter, text after; without a parameter it is literal.
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
        """Return what lays out errors at that path (X-24)."""
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
            InvalidInput: a name in it is not UTF-8, or its dialect knows no such path (TF-R7).
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
            # What is neither a number nor asked for as a label is no version, and no such path (TR-R18).
            has_other_verb = has_other_verb or names.get("version", "0").isdecimal()
        for find in self._finders:
            if (route := find(verb, raw_path)) is not None:
                return route
        if has_other_verb:
            raise WrongVerb("Method Not Allowed")
        raise NoRoute("Not Found")


class _Endpoints(Mapping[str, Endpoint]):
    """Endpoints by the names of their operations; a table is asked for its own when one of them is called."""

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
    """Return the endpoints of a table, with what its rows say of them."""
    reads = {row.name for row in table.operations if not row.changes} | table.reads
    groups = {row.name: group_of_path(row.verb, row.path) for row in table.operations}
    return [
        (name, msgspec.structs.replace(each, changes=name not in reads, group=groups.get(name, "")))
        for name, each in table.endpoints.items()
    ]


def _segments(path: str) -> tuple[_Segment, ...]:
    out = []
    for segment in path.strip("/").split("/"):
        before, brace, rest = segment.partition("{")
        parameter, _, after = rest.partition("}")
        out.append((before, parameter if brace else "", after))
    return tuple(out)


def _names(parts: Sequence[str], segments: Sequence[_Segment]) -> dict[str, str] | None:
    """Return the names in a path; None if it does not match."""
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
    """Return a name in a path, decoded.

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
