"""``salver config``: show and check the configuration."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, table

if TYPE_CHECKING:
    from salver.cli.server_file import Problem
    from salver.words.errors import SalverError

config = App(
    name="config", help="Show and check the configuration.", default_parameter=Parameter(negative=())
)
_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:(?=[^@/\s]+@)|\bpassword=)[^@,&\s]+")


@config.command
def schema() -> None:
    """Print the JSON Schema of salver.toml, for editors."""
    import json

    from salver.cli.config_schema import schema as made

    line(json.dumps(made(), indent=1, ensure_ascii=False))


@config.command
def show(*words: Annotated[str, Parameter(allow_leading_hyphen=True)], json: Json = False) -> None:
    """Print every setting that salver serve would use, with its source.

    The source is a flag, an environment variable, a file with the line, or default. A flag overrides a
    variable, which overrides the file.

    Args:
        words: PATHs and flags of salver serve.
    """
    rows = list(settings(words))
    if json:
        for key, value, source in rows:
            record({"key": key, "value": value, "source": source})
        return
    table(("key", "value", "source"), [(key, _text(value), source) for key, value, source in rows])


@config.command
def check(path: Path = Path(), /, *, json: Json = False) -> int:
    """Check configuration files; the exit status is 1 if one is wrong.

    Args:
        path: A salver.toml, a model's folder, or a repository, whose files are all checked. Default: the
            working directory.
    """
    found = list(_problems(path))
    for problem in found:
        if json:
            record(problem._asdict())
        else:
            line(f"{problem.where}: {problem.text}{problem.fix and f'. {problem.fix}'}")
    if not found and not json:
        line("the configuration is right")
    return int(bool(found))


def settings(words: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and source of each setting, without secrets.

    Args:
        words: PATHs and flags of ``salver serve``.
    """
    # Imported here: commands other than these do not wait for the server's modules.
    import msgspec

    from salver.cli.feature_tables import read_tables, records, variable_of
    from salver.cli.serve_options import resolve
    from salver.cli.server_file import find
    from salver.configuration import ServeConfig

    resolved = resolve(words)
    for option in resolved.options:
        yield f"server.{option.key}", _shown(option.key, option.value), option.source
    file = find(resolved.paths)
    tables = read_tables(file, os.environ)
    config = ServeConfig(tables=tables)
    for name, kind in sorted(records().items()):
        values = msgspec.to_builtins(config.table(name, kind))
        for key, value in values.items():
            source = "default"
            if variable_of(name, key) in os.environ:
                source = variable_of(name, key)
            elif key in tables.get(name, {}) and file:
                source = file.where(f"{name}.{key}")
            yield f"server.{name}.{key}", _shown(key, value), source


def _shown(key: str, value: object) -> object:
    """Return a value without the secrets in it: passwords, also in URLs, and values of headers."""
    if key == "headers" and isinstance(value, list | tuple):
        return [[name, "…"] for name, _ in value]
    match value:
        case str():
            return "…" if value and key.endswith("password") else without_passwords(value)
        case list() | tuple():
            return [_shown(key, each) for each in value]
        case dict():
            return {name: _shown(str(name), each) for name, each in value.items()}
    return value


def without_passwords(text: str) -> str:
    """Return a text without the passwords of URLs in it.

    >>> without_passwords("postgresql://ann:secret@db/salver")
    'postgresql://ann:…@db/salver'
    """
    return _PASSWORD.sub(r"\1…", text)


def _text(value: object) -> str:
    """Return a value as TOML writes it, or nearly."""
    import msgspec

    if value is None:
        return ""
    return msgspec.json.encode(value).decode()


def _problems(path: Path) -> "Iterator[Problem]":
    from salver.cli.feature_tables import records
    from salver.cli.serve_options import resolve, serve_defaults
    from salver.cli.server_file import find, problems, read
    from salver.kernel.repository.settings import TOML
    from salver.kernel.repository.toml import parse_toml
    from salver.words.errors import InvalidInput, SalverError

    if not path.exists():
        raise InvalidInput(f"there is no {path}")
    broken: set[str] = set()
    for file in [path] if path.is_file() else sorted(path.rglob(TOML)):
        try:
            parse_toml(file.read_bytes(), str(file))
        except InvalidInput as error:
            broken.add(str(error))
            yield _of_error(error, file)
    try:
        server = read(path) if path.is_file() else find([str(path)])
    except InvalidInput as error:
        if str(error) not in broken:
            yield _of_error(error, path)
        return
    if server is None:
        return
    kinds: Mapping[str, Any] = {key: option.kind for key, option in serve_defaults().items()}
    wrong = list(problems(server, kinds, records()))
    yield from wrong
    if not wrong and server.path.name == TOML:
        try:
            resolve([str(path)]).configure()
        except SalverError as error:
            yield _of_error(error, server.path)


def _of_error(error: "SalverError", file: Path) -> "Problem":
    from salver.cli.server_file import Problem

    return Problem(str(file), error.field, error.message.removeprefix(f"{file}: "), error.fix)
