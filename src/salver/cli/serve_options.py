"""Options of ``salver serve`` and their sources: flag, environment variable, ``salver.toml``, default."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cyclopts import App, Parameter
from cyclopts.argument import Argument, ArgumentCollection, Token
from cyclopts.config import Env

from salver.cli.serve import serve

if TYPE_CHECKING:
    from salver.cli.server_file import ServerFile

#: Options that no file sets: how a command is called, not what the server does.
_OF_CALLS: Final = ("--json",)
#: Default and value of an option that the command line, the environment and the file leave out.
_DEFAULT: Final = "default"


#: Beginnings of flags that are tables of the file.
_TABLES: Final = ("log", "tls", "trace")


def key_of(flag: str) -> str:
    """Return the key of a flag, below ``[server]``.

    >>> key_of("--max-body-mb"), key_of("--log-level")
    ('max_body_mb', 'log.level')
    """
    name = flag.removeprefix("--").replace("-", "_")
    table, _, rest = name.partition("_")
    if table in _TABLES and rest:
        return f"{table}.{rest}"
    return name


class Option(NamedTuple):
    """A setting of the server.

    Attributes:
        key: Its place below ``[server]``, as ``log.level``.
        kind: Type of its value.
        source: ``default``, a flag, an environment variable, or file and line.
    """

    key: str
    kind: Any
    default: object
    help: str
    value: object
    source: str


class Resolved(NamedTuple):
    """A command line of ``salver serve``, resolved.

    Attributes:
        paths: Models and repositories.
        configure: Returns the server's configuration; raises SalverError where options do not fit together.
    """

    paths: tuple[str, ...]
    options: list[Option]
    configure: Callable[[], object]


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set the options that neither the command line nor the environment sets, from the nearest file.

    Raises:
        InvalidInput: the first problem of that file.
    """
    # Imported here: --help does not wait for the server's modules.
    from salver.cli.server_file import find, problems

    file = find(_paths(arguments))
    if file is None:
        return
    from salver.cli.feature_tables import records

    by_key = {key_of(argument.name): argument for argument in _options(arguments)}
    for problem in problems(file, {key: argument.hint for key, argument in by_key.items()}, records()):
        raise problem.error()
    for key, value in file.values():
        if key in by_key and not by_key[key].tokens:
            for token in _tokens(file, key, value):
                by_key[key].append(token)


#: Sources behind the command line, the first one first.
SOURCES: Final = (Env("SALVER_", command=False, show=False), fill_from_file)


def resolve(words: Sequence[str]) -> Resolved:
    """Return the options of a command line; ``words`` follow ``salver serve``.

    Exits with 2 where they are wrong, as ``salver serve`` does.

    Raises:
        InvalidInput: the configuration file is wrong.
    """
    arguments: list[Argument] = []

    def keep(app: App, commands: tuple[str, ...], collected: ArgumentCollection) -> None:
        arguments.extend(collected)

    app = App(
        name="salver serve", default_parameter=Parameter(negative=()), config=(*SOURCES, keep), help_flags=()
    )
    app.default(serve)
    _, bound, _ = app.parse_args([*words])
    options = [_resolved(argument) for argument in _options(arguments)]
    return Resolved(_paths(arguments), options, lambda: serve(*bound.args, **bound.kwargs))


def serve_defaults() -> dict[str, Option]:
    """Return the options with their defaults, by key."""
    app = App(default_parameter=Parameter(negative=()))
    app.default(serve)
    arguments = app.assemble_argument_collection()
    return {option.key: option for option in map(_resolved, _options(arguments))}


def _options(arguments: "Sequence[Argument] | ArgumentCollection") -> Iterator[Argument]:
    """Yield those that a file can set; groups of options are none."""
    for argument in arguments:
        if not argument.children and argument.name.startswith("--") and argument.name not in _OF_CALLS:
            yield argument


def _paths(arguments: "Sequence[Argument] | ArgumentCollection") -> tuple[str, ...]:
    return tuple(t.value for argument in arguments if argument.name == "PATHS" for t in argument.tokens)


def _tokens(file: "ServerFile", key: str, value: object) -> Iterator[Token]:
    where = file.where(key)
    for index, part in enumerate(value if isinstance(value, list) else [value]):
        text = str(part).lower() if isinstance(part, bool) else str(part)
        yield Token(keyword=key, value=text, source=where, index=index)


def _resolved(argument: Argument) -> Option:
    tokens = argument.tokens
    default = argument.field_info.default
    source = _DEFAULT
    if tokens:
        first = tokens[0]
        source = first.source
        if first.source in ("cli", "env"):
            source = first.keyword or argument.name
    value = argument.value if tokens else default
    return Option(key_of(argument.name), argument.hint, default, argument.parameter.help or "", value, source)
