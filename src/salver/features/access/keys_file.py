"""File of keys, as ``salver keys`` writes it and a server reads it.

TOML with one table ``[[key]]`` for each key, which holds hashes only, and ``[limits.…]`` for the limits of
tenants, models and the server. :func:`parse` and :func:`written` are pure.
"""

import fcntl
import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key
from salver.features.access.limit_book import NONE, DeclaredLimits, LimitBook
from salver.features.access.limits import LimitRules, Limits
from salver.features.access.scopes import Scopes
from salver.kernel.serving.standing import MAX_PRIORITY, MAX_TENANT
from salver.words.errors import InvalidInput
from salver.words.messages import ANYBODY, Service, Standing

_HASH: Final = "sha256:"
_NEVER: Final = float("inf")
_MOST_BYTES: Final = 64 << 20
_HEADER: Final = (
    "# Keys of callers, as hashes. Written by `salver keys`; a server reads changes within a second.\n"
)


class Previous(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hash of a key before its rotation, and when it ends."""

    hash: str
    not_after: datetime


class KeyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key in the file.

    Attributes:
        id: Id, which stays when the key is rotated.
        name: Name of the caller.
        hash: ``sha256:`` and the hash of the whole key in hexadecimal digits.
        scopes: Scopes, as ``infer:resnet*``.
        created: When the key was made.
        not_after: When it expires; None = never.
        revoked: When it was revoked; None = it is valid.
        limits: Its limits; None = none.
        tenant: Tenant of its requests; empty = the common one, ``*`` = any that a request names.
        priority: Level of its requests, unless they ask for a lower one; 0 = the model's default.
        service_class: The same of the service class.
        owner, note: For people.
        shown: Beginning and end of the key, by which people recognise it.
        previous: The key before the last rotation.
    """

    id: str
    name: str
    hash: str
    scopes: tuple[str, ...]
    created: datetime | None = None
    not_after: datetime | None = None
    revoked: datetime | None = None
    limits: LimitRules | None = None
    tenant: Annotated[str, msgspec.Meta(max_length=MAX_TENANT, pattern=r"^[ -~]*\Z")] = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    service_class: Service = "normal"
    owner: str = ""
    note: str = ""
    shown: str = ""
    previous: Previous | None = None


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file."""

    key: tuple[KeyRecord, ...] = ()
    limits: DeclaredLimits = NONE


class Draft(msgspec.Struct):
    """Content of a file that is being changed."""

    records: list[KeyRecord]
    limits: DeclaredLimits


def hash_of(key: str) -> str:
    """Return the hash of a key as it stands in the file."""
    return _HASH + digest_of(key.encode()).hex()


def parse(text: str, name: str) -> KeysFile:
    """Return what a file's content says.

    Args:
        name: Name of the file, for the error.

    Raises:
        InvalidInput: it is no such file; names the place.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), KeysFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidInput(f"{name} is no file of keys: {error}", field="--keys-file") from error
    try:
        check(found.key)
        LimitBook(found.limits)
    except InvalidInput as error:
        raise InvalidInput(f"{name} is wrong: {error}", field="--keys-file") from error
    return found


def check(records: Sequence[KeyRecord]) -> None:
    """Check all of a source's keys. Raises InvalidInput: one is wrong; the error names it."""
    try:
        msgspec.convert(msgspec.to_builtins(records), tuple[KeyRecord, ...])
    except msgspec.ValidationError as error:
        raise InvalidInput(f"a key is wrong: {error}") from error
    table(records)
    _check_ids(records)


def table(records: Sequence[KeyRecord]) -> dict[bytes, Key]:
    """Return the keys that are not revoked, by digest.

    Raises:
        InvalidInput: a key is wrong; the error names it.
    """
    keys: dict[bytes, Key] = {}
    shared: dict[tuple[str, ...], Scopes] = {}  # most keys have the scopes of many others
    for record in records:
        try:
            scopes = shared.get(record.scopes)
            if scopes is None:
                scopes = shared[record.scopes] = Scopes(record.scopes)
            limits = None if record.limits is None else Limits(record.limits)
            ends = {_digest(record.hash): _unix(record.not_after)}
            if record.previous is not None:
                ends[_digest(record.previous.hash)] = min(
                    _unix(record.not_after), _unix(record.previous.not_after)
                )
        except InvalidInput as error:
            raise InvalidInput(f"{error} (in the key {record.id!r})") from error
        granted = Standing(record.tenant, record.priority, record.service_class)
        if granted == ANYBODY:
            granted = ANYBODY  # one object for most keys
        for digest, end in ends.items():
            if digest in keys:
                raise InvalidInput(f"the hash of the key {record.id!r} is there twice")
            if record.revoked is None:
                keys[digest] = Key(record.id, record.name, scopes, end, limits, granted)
    return keys


def _check_ids(records: Sequence[KeyRecord]) -> None:
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise InvalidInput(f"two keys have the id {record.id!r}")
        if not record.id or not record.name.isprintable() or not record.name:
            raise InvalidInput(f"the key {record.id!r} needs an id and a name")
        ids.add(record.id)


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text.removeprefix(_HASH)) if text.startswith(_HASH) else b""
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise InvalidInput("a hash is sha256: and 64 hexadecimal digits, never the key itself", field="hash")
    return digest


def _unix(moment: datetime | None) -> float:
    if moment is None:
        return _NEVER
    if moment.tzinfo is None:
        raise InvalidInput("a time needs its offset, as 2027-01-31T00:00:00Z")
    return moment.timestamp()


def written(records: Sequence[KeyRecord], limits: DeclaredLimits = NONE) -> str:
    """Return the content of the file."""
    parts = [_HEADER]
    for place, rules in limits.places():
        heading = ".".join(("limits", *place[:1], *map(json.dumps, place[1:])))
        values = [f"{name} = {_value(value)}\n" for name, value in msgspec.to_builtins(rules).items()]
        parts.append(f"\n[{heading}]\n" + "".join(values))
    for record in records:
        lines = ["", "[[key]]"]
        for name, value in msgspec.to_builtins(record, builtin_types=(datetime,)).items():
            lines.append(f"{name} = {_value(value)}")
        parts.append("\n".join([*lines, ""]))
    return "".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # TOML's basic strings are JSON's, except for the letter DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(path: Path) -> tuple[KeyRecord, ...]:
    """Return the keys of a file. Raises InvalidInput."""
    return read_whole(path).key


def read_whole(path: Path) -> KeysFile:
    """Return what a file says.

    Raises:
        InvalidInput: it cannot be read, or is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", field="--keys-file") from error
    return parse(text, str(path))


@contextmanager
def editing(path: Path) -> Iterator[list[KeyRecord]]:
    """Yield the keys of a file, which is written afterwards. See :func:`drafting`."""
    with drafting(path) as draft:
        yield draft.records


@contextmanager
def drafting(path: Path) -> Iterator[Draft]:
    """Yield the content of a file, which is written afterwards; nothing of it if there is no file yet.

    Others who edit the file wait. Readers see the old file or the new one. The file keeps its mode; a new one
    can be read by its owner only.

    Raises:
        InvalidInput: it cannot be read or written, or is wrong.
    """
    lock = path.with_name(f".{path.name}.lock")
    fresh = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(lock, os.O_CREAT | os.O_WRONLY, 0o600), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            found = read_whole(path) if path.exists() else KeysFile()
            draft = Draft(list(found.key), found.limits)
            yield draft
            text = written(draft.records, draft.limits)
            parse(text, str(path))  # a server must never find a file that it refuses
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}", field="--keys-file"
        ) from error
