"""Operations of the management interface, and the decoding of their requests.

An :class:`Operation` is declared once, with its path and the records of its request and answer. Requests are
decoded and validated by these records, and the description (``openapi.py``) is generated from them.
"""

import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from salver.kernel.serving.decoding import LARGE, Decoders
from salver.transport.access_check import Caller, Changing, Group
from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, NoRoute, WrongVerb
from salver.words.messages import Grant

#: Path prefix of the interface.
ROOT: Final = "/api/v1"
#: Pattern of a text that every database can store; PostgreSQL refuses the character NUL.
STORABLE: Final = r"^[^\x00]*$"
#: Largest number that every database can store.
MOST_NUMBER: Final = 10**18
_MOST_FIELDS: Final = 32
_PLACE: Final = re.compile(r" - at `(.+)`$", re.S)
_Item = TypeVar("_Item")
_decoder = functools.cache(msgspec.json.Decoder)


class Why(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reason for a change, which is stored."""

    reason: Annotated[str, msgspec.Meta(max_length=1000, pattern=STORABLE)] = ""


class Done(msgspec.Struct, frozen=True):
    """Confirmation of a change."""

    is_done: bool = True


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Empty request body, ``{}``."""


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Empty query string."""


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a list that a request asks for.

    Attributes:
        limit: Most items, 1 to 1000.
        after: ``next`` of the previous page; empty = from the beginning.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    after: str = ""


class Page(msgspec.Struct, Generic[_Item], frozen=True):
    """Part of a list.

    Attributes:
        next: ``after`` of the next page; empty = this is the last one.
    """

    items: Sequence[_Item]
    next: str = ""


def paged(items: Sequence[_Item], query: PageQuery, key: Callable[[_Item], str]) -> Page[_Item]:
    """Return the page of a list that a query asks for.

    Args:
        key: Returns the unique name of an item.

    Raises:
        InvalidInput: ``after`` names no item (any more).
    """
    first = 0
    if query.after:
        first = next((index + 1 for index, item in enumerate(items) if key(item) == query.after), 0)
        if not first:
            raise InvalidInput(
                "the list has changed, and no longer holds what it was read up to",
                field="query.after",
                fix="Read it from the beginning.",
            )
    part = items[first : first + query.limit]
    return Page(part, key(part[-1]) if first + len(part) < len(items) else "")


def tag_of(body: bytes) -> str:
    """Return the entity tag of a body (RFC 9110, section 8.8.3)."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


class ApiRequest(msgspec.Struct, frozen=True):
    """Checked and decoded request to the management interface.

    Attributes:
        names: Parameters of the path, decoded.
        query, body: Records of the operation's types.
        caller: The caller.
        expected: Entity tags in ``if-match``, or ``*``; empty = the header is missing.
        changing: Who may change something at the port of the request.
        own: The caller's key, for operations that need any key, or the right ``access``; None = it has none.
        grant: Tells of which models an operation that filters may tell; None = all.
    """

    names: Mapping[str, str]
    query: Any = NoQuery()
    body: Any = None
    caller: Caller = Caller("api")
    expected: frozenset[str] = frozenset()
    changing: Changing = "open"
    own: object = None
    grant: Grant | None = None

    def may_see(self, model: str) -> bool:
        """Return whether the caller may know of a model."""
        return self.grant is None or self.grant.allows(model)


class Answer(msgspec.Struct, frozen=True):
    """Answer of an operation.

    Attributes:
        etag: Entity tag; empty = computed from the body.
    """

    body: Any
    etag: str = ""


class Operation(msgspec.Struct, frozen=True):
    """One row of the table of operations.

    Attributes:
        name: Id in the description.
        path: Path below :data:`ROOT`; ``{model}`` matches one segment.
        run: Performs the operation. Raises any :class:`~salver.words.errors.SalverError`.
        gives: Type of the answer's body.
        takes: Type of the request's body; None = no body.
        query: Type of the query string.
        changes: The operation changes something.
        group: Group that an operator may restrict; changes have one of their own.
        status: Status of a successful answer.
        most_body: Most bytes of the request's body.
        role: Restricted token role that suffices; empty = none does.
        right: Right that callers need where the server has keys.
        is_conditional: The operation checks ``if-match``.
        filters: The answer leaves out the models that the caller may not read.
    """

    name: str
    verb: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    summary: str
    run: Callable[[ApiRequest], Awaitable[Answer]]
    gives: Any
    takes: Any = None
    query: Any = NoQuery
    changes: bool = False
    group: Group = "metadata"
    status: int = 200
    most_body: int = 1 << 20
    role: str = ""
    right: Right | Literal[""] = ""
    is_conditional: bool = False
    filters: bool = False


def right_of(operation: Operation) -> Right:
    """Return the right that an operation needs; a change that names none needs the one over access itself."""
    return operation.right or ("access" if operation.changes else "read")


class Api:
    """Table of all operations.

    Args:
        decoders: Parse large bodies in other processes; None = parse in place.

    Raises:
        ValueError: two operations have the same verb and path.
    """

    def __init__(self, operations: Sequence[Operation], decoders: Decoders | None = None) -> None:
        self.operations = tuple(operations)
        self._decoders = decoders
        self._table: dict[int, list[tuple[tuple[str, ...], Operation]]] = {}
        seen: set[tuple[str, str]] = set()
        for operation in sorted(operations, key=lambda o: o.path.count("{")):
            place = (operation.verb, re.sub(r"{\w+}", "{}", operation.path))
            if place in seen:
                raise ValueError(f"two operations at {place}")
            seen.add(place)
            segments = tuple((ROOT + operation.path).split("/"))
            self._table.setdefault(len(segments), []).append((segments, operation))

    def __repr__(self) -> str:
        return f"<Api of {len(self.operations)} operations>"

    def verbs(self, raw_path: str) -> tuple[str, ...]:
        """Return the verbs of a path for the header ``allow``; empty = no such path."""
        parts = raw_path.split("/")
        rows = self._table.get(len(parts), ())
        found = {operation.verb for segments, operation in rows if _fit(segments, parts) is not None}
        return tuple(sorted({*found, *({"HEAD"} if "GET" in found else ()), "OPTIONS"} if found else ()))

    async def record(self, operation: Operation, body: bytes) -> Any:
        """Parse a body as :func:`read_body` does, without blocking on a large one."""
        if len(body) <= LARGE or self._decoders is None or operation.takes is None:
            return read_body(operation, body)
        return await self._decoders.call(parse, body, operation.takes)

    def find(self, verb: str, raw_path: str) -> tuple[Operation, dict[str, str]]:
        """Return the operation and the decoded parameters of its path.

        Raises:
            NoRoute: there is no such path.
            WrongVerb: the path exists for the other verbs that the error names.
            InvalidInput: a name is not UTF-8.
        """
        parts = raw_path.split("/")
        for segments, operation in self._table.get(len(parts), ()):
            names = _fit(segments, parts)
            if names is not None and operation.verb == ("GET" if verb == "HEAD" else verb):
                return operation, {name: _decoded(text) for name, text in names.items()}
        if verbs := self.verbs(raw_path):
            raise WrongVerb(f"{raw_path} takes {', '.join(verbs)}, not {verb}")
        raise NoRoute(f"there is no {raw_path}", fix="See /api/openapi.json for what there is.")


def _fit(segments: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    names = {}
    for segment, part in zip(segments, parts, strict=True):
        if segment.startswith("{"):
            if not part:
                return None
            names[segment[1:-1]] = part
        elif segment != part:
            return None
    return names


def _decoded(part: str) -> str:
    try:
        name = unquote_to_bytes(part).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "a name in the path is not valid UTF-8", field="path", fix="Percent-encode its UTF-8 bytes."
        ) from error
    if "\x00" in name:
        raise InvalidInput("a name in the path holds the letter 0", field="path", fix="Leave %00 out.")
    return name


def read_query(operation: Operation, text: bytes) -> Any:
    """Decode a query string into the operation's record.

    Raises:
        InvalidInput: a parameter is unknown or invalid; names the field.
    """
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise InvalidInput(
            f"the query cannot be read: {error}",
            field="query",
            fix="Write field=value&field=value, in ASCII.",
        ) from error
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InvalidInput("a field of the query is given twice", field="query", fix="Give each once.")
    try:
        return msgspec.convert(given, operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise _unfit(error, operation.query, "query") from error


def read_body(operation: Operation, body: bytes) -> Any:
    """Decode a body into the operation's record.

    Raises:
        InvalidInput: a field is unknown, missing or invalid; names the field.
    """
    if operation.takes is None:
        if body.strip() not in (b"", b"{}"):
            raise InvalidInput(f"{operation.name} takes no body", field="body", fix="Leave it out.")
        return None
    return parse(body, operation.takes)


def parse(body: bytes, kind: Any) -> Any:
    """Parse a record of a type. Raises InvalidInput as :func:`read_body`."""
    try:
        return _decoder(kind).decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise _unfit(error, kind, "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"the body is not JSON: {error}", field="body", fix="Send one JSON object, in UTF-8."
        ) from error


def _unfit(error: msgspec.ValidationError, kind: Any, where: str) -> InvalidInput:
    text = str(error)
    place = _PLACE.search(text)
    field = ""
    if place:
        field = place[1].removeprefix("$").lstrip(".")
    names = getattr(kind, "__struct_encode_fields__", ())
    known = "It takes none."
    if names:
        known = f"Fields: {', '.join(names)}."
    is_top = "." not in field and (not field or "field" not in text)  # not a field of a nested record
    return InvalidInput(
        text[: place.start()] if place else text,
        field=f"{where}.{field}" if field else where,
        fix=known if is_top else "See /api/openapi.json for its form.",
    )
