"""The table ``[server]`` of ``salver.toml``: where it is found, and what is wrong with it.

Keys of ``[server]`` are the flags of ``salver serve``. Keys of its sub-tables are flags that begin with the
table's name (``[server.log] level`` is ``--log-level``), or fields of a feature's configuration record.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import msgspec

from salver.kernel.repository.config import SERVER
from salver.kernel.repository.settings import MAX_CONFIG, TOML
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput

with lazy_imports():
    from salver.kernel.repository.toml import read_document


#: Keys that would let whoever writes the models decide what the server allows.
FLAGS_ONLY: Final = (
    "trust_pickle",
    "allow_environments",
    "allow_remote_control",
    "allow_anonymous",
    "identity_file",
)
_HEADER: Final = re.compile(r"\s*\[+\s*([^\[\]]+?)\s*\]")
_ASSIGNMENT: Final = re.compile(r"\s*([\w\"'. -]+?)\s*=")
Records = Mapping[str, type[msgspec.Struct]]


class ServerFile(NamedTuple):
    """A file with a table ``[server]``.

    Attributes:
        table: Content of that table.
    """

    path: Path
    text: str
    table: dict[str, Any]

    def where(self, key: str) -> str:
        """Return the file and the line that sets a key such as ``log.level``, as ``PATH:LINE``."""
        number = _line_of(self.text, f"{SERVER}.{key}")
        if number:
            return f"{self.path}:{number}"
        return str(self.path)

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield each key with its value; a sub-table's keys after its name, as ``log.level``."""
        for name, value in self.table.items():
            if isinstance(value, dict):
                yield from ((f"{name}.{key}", inner) for key, inner in value.items())
            else:
                yield name, value


class Problem(NamedTuple):
    """Something wrong in a configuration file.

    Attributes:
        where: The file, and its line where it is known.
    """

    where: str
    key: str
    text: str
    fix: str = ""

    def error(self) -> InvalidInput:
        """Return the problem as an error."""
        return InvalidInput(f"{self.where}: {self.text}", field=self.key, fix=self.fix)


def find(paths: Iterable[str]) -> ServerFile | None:
    """Return the nearest file with a table ``[server]``, beside or above the models.

    Files that belong to another user, root apart, are passed over: they would decide what this server does.

    Args:
        paths: Models and repositories, the first one first; none = the working directory. URLs have no file.

    Raises:
        InvalidInput: such a file cannot be read, or is not TOML.
    """
    for path in tuple(paths) or ("",):
        if "://" in path:
            continue
        start = Path(path).absolute()
        for folder in (start, *start.parents):
            if (found := read(folder / TOML)) is not None:
                return found
    return None


def read(path: Path) -> ServerFile | None:
    """Return the file; None if it is missing, another user's, or has no table ``[server]``.

    Raises:
        InvalidInput: it cannot be read, or is not TOML although it seems to have such a table.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid not in (0, os.geteuid()):
                return None
            content = file.read(MAX_CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    if SERVER.encode() not in content:
        return None
    document, text = read_document(content, str(path))
    table = document.get(SERVER)
    if table is None:
        return None
    if not isinstance(table, dict):
        line = _line_of(text, SERVER)
        raise InvalidInput(f"{path}: line {line}: `{SERVER}` must be a table", fix=f"Write [{SERVER}].")
    return ServerFile(path, text, table)


def problems(file: ServerFile, options: Mapping[str, Any], records: Records) -> Iterator[Problem]:
    """Yield everything wrong with the keys of a file and the types of their values.

    Args:
        options: Types of the options of ``salver serve``, by key.
        records: Configuration records of features, by table.
    """
    for key, value in file.values():
        table, _, name = key.rpartition(".")
        fields = _fields(records.get(table))
        if key in FLAGS_ONLY:
            fix = f"Say --{key.replace('_', '-')} when you start the server."
            yield Problem(file.where(key), key, f"`{SERVER}.{key}` cannot be set in a file", fix)
        elif key in options or name in fields:
            kind = options[key] if key in options else fields[name]
            if text := _misfit(value, kind):
                yield Problem(file.where(key), key, f"key `{SERVER}.{key}`: {text}")
        else:
            yield _unknown(file, key, options, records)
    for table, record in records.items():
        if isinstance(content := file.table.get(table), dict):
            yield from _wrong_together(file, table, content, record)


def _unknown(file: ServerFile, key: str, options: Mapping[str, Any], records: Records) -> Problem:
    table, _, name = key.rpartition(".")
    known = [*options, *(f"{t}.{field}" for t, record in records.items() for field in _fields(record))]
    beside = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == table]
    near = difflib.get_close_matches(name, beside, 1, 0.5)
    if near:
        fix = f"Did you mean `{near[0]}`?"
    elif close := difflib.get_close_matches(key, known, 1, 0.5):
        fix = f"Did you mean `{SERVER}.{close[0]}`?"
    else:
        fix = "`salver config show` lists the keys."
    return Problem(file.where(key), key, f"unknown key `{SERVER}.{key}`", fix)


def _wrong_together(
    file: ServerFile, table: str, content: dict[str, Any], record: type[msgspec.Struct]
) -> Iterator[Problem]:
    """Yield what a record refuses of values that are right one by one."""
    fields = _fields(record)
    fitting = {k: v for k, v in content.items() if k in fields and not _misfit(v, fields[k])}
    try:
        msgspec.convert(fitting, record)
    except InvalidInput as error:
        yield Problem(file.where(table), table, f"table `{SERVER}.{table}`: {error.message}", error.fix)
    except msgspec.ValidationError as error:
        yield Problem(file.where(table), table, f"table `{SERVER}.{table}`: {_lower(str(error))}")


def _misfit(value: object, kind: Any) -> str:
    """Return why a value does not fit a type; empty if it does."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
        if choices:
            return f"must be one of {', '.join(map(repr, choices))}"
        return _lower(str(error))
    return ""


def _fields(record: type[msgspec.Struct] | None) -> dict[str, Any]:
    if record:
        return {field.name: field.type for field in msgspec.structs.fields(record)}
    return {}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _line_of(text: str, path: str) -> int:
    """Return the number of the first line that sets a key, or a table around it; 0 = none does."""
    header, around, depth = "", 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            header = set_here = match[1]
        elif match := _ASSIGNMENT.match(line):
            set_here = f"{header}.{match[1]}" if header else match[1]
        else:
            continue
        set_here = re.sub(r"[\s\"']", "", set_here)
        if set_here == path:
            return number
        if path.startswith(f"{set_here}.") and len(set_here) > depth:
            around, depth = number, len(set_here)
    return around
