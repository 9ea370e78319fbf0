"""Whose flags does a command line of ``salver serve --compat`` bring, and what do they say?

What is common to the command lines of other servers: flags by name, each of a type. What each means stands
in a module of its own (``triton.py``, ``tensorflow.py``).
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from salver.cli.serve import announce, run_loop
from salver.terminal.output import line, table
from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.app import ServeConfig

Type = Literal["text", "int", "seconds", "bool", "switch", "three"]
#: A flag's type, and a line for --help or why it has no effect.
Flags = Mapping[str, tuple[Type, str]]
YES: Final = ("true", "on", "1")
NO: Final = ("false", "off", "0")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Start(msgspec.Struct, frozen=True):
    """What the flags ask for.

    Attributes:
        notices: Flags without an effect, each with why, for the log.
        remark: For the end of the start-up block; may be empty.
    """

    config: "ServeConfig"
    notices: tuple[str, ...]
    remark: str
    json: bool


class Dialect(NamedTuple):
    """The command line of a server.

    Attributes:
        name: Behind ``--compat``.
        program: Whose flags they are.
        used: Flags with an effect; whole numbers among them are not negative.
        ignored: Flags without one, and why.
        own: Flags of ``salver serve`` that go with them.
        models: How models are named.
        usual: The flag that most command lines have.
    """

    name: str
    program: str
    used: Flags
    ignored: Flags
    own: Flags
    models: str
    usual: str

    @property
    def types(self) -> dict[str, Type]:
        """What each flag takes."""
        tables = (self.used, self.ignored, self.own)
        return {name: kind for flags in tables for name, (kind, _) in flags.items()}


class Given:
    """The flags of one command line, by name, in their order.

    Raises:
        InvalidInput: an unknown flag, or a value that it cannot have.
    """

    def __init__(self, words: Sequence[str], dialect: Dialect) -> None:
        self._values: dict[str, list[str]] = {}
        self._dialect = dialect
        self._types = dialect.types
        left = list(words)
        while left:
            name, value = self._take(left)
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def all(self, name: str) -> tuple[str, ...]:
        """Each value of a flag that may be repeated."""
        return tuple(self._values.get(name, ()))

    def text(self, name: str, default: str = "") -> str:
        """The last value counts."""
        return self._values[name][-1] if name in self._values else default

    def number(self, name: str, default: int) -> int:
        """Not below 0."""
        return int(self.text(name, str(default)))

    def seconds(self, name: str, default: float) -> float:
        """Not below 0; parts of a second count."""
        return float(self.text(name, str(default)))

    def is_on(self, name: str, default: bool) -> bool:
        """Of a flag that is true or false."""
        return self.text(name).lower() in YES if name in self._values else default

    def port(self, name: str, default: int) -> int:
        """Raises InvalidInput for a number that is none."""
        port = self.number(name, default)
        if port > 65535:
            raise InvalidInput(f"--{name} {port} is no port")
        return port

    def without_effect(self) -> list[str]:
        """A line for the log on each flag that has none."""
        ignored = self._dialect.ignored
        return [
            f"--{name} is accepted and has no effect here: {ignored[name][1]}"
            for name in self
            if name in ignored
        ]

    def _take(self, left: list[str]) -> tuple[str, str]:
        """The next flag and its value, taken off the words."""
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in (*self._types, "compat"):
            if not word.startswith("--"):
                raise InvalidInput(f"unexpected argument {word!r}", fix=self._dialect.models)
            near = difflib.get_close_matches(name, self._types, 1)
            raise InvalidInput(
                f"{self._dialect.program} has no flag --{name}, or none that is known here",
                fix=f"Is --{near[0]} meant?"
                if near
                else f"salver serve --compat {self._dialect.name} --help lists them.",
            )
        kind = self._types.get(name, "text")
        if not equals:
            if kind == "switch" or (kind == "bool" and (not left or left[0].lower() not in YES + NO)):
                value = "true"
            elif left:
                value = left.pop(0)
            else:
                raise InvalidInput(f"--{name} needs a value")
        if kind == "three":
            if len(left) < 2:
                raise InvalidInput(f"--{name} needs three values")
            value = "\n".join((value, left.pop(0), left.pop(0)))
        if kind in ("bool", "switch") and value.lower() not in YES + NO:
            raise InvalidInput(f"--{name} is true or false, not {value!r}")
        if kind == "int" and not (value.isascii() and value.removeprefix("-").isdigit()):
            raise InvalidInput(f"--{name} takes a whole number, not {value!r}")
        if kind == "seconds" and not _SECONDS.fullmatch(value):
            raise InvalidInput(f"--{name} takes seconds, as 10 or 0.5, and not {value!r}")
        if kind == "int" and name in self._dialect.used and value.startswith("-"):
            raise InvalidInput(f"--{name} cannot be negative")
        return name, value


def serve_as(dialect: Dialect, words: Sequence[str], configure: Callable[[Sequence[str]], Start]) -> int:
    """Serve as that server would; ``words`` follow ``serve``."""
    if "--help" in words:
        return _help(dialect)
    from salver.running import serve as run

    start = configure(words)
    return run_loop(
        run(
            start.config,
            lambda info: announce(info, json=start.json, remark=start.remark, log_file=start.config.log.file),
            start.notices,
        )
    )


def _help(dialect: Dialect) -> int:
    line(f"Usage: salver serve --compat {dialect.name} {dialect.usual} [FLAGS]")
    line("")
    line(f"Flags of {dialect.program}, as --name value or --name=value. With an effect:")
    shown = {**dialect.used, **dialect.own}
    table(("flag", "meaning"), tuple((f"--{name}", text) for name, (_, text) in shown.items()))
    line("")
    line("Accepted, without an effect here:")
    table(("flag", "why"), tuple((f"--{name}", why) for name, (_, why) in dialect.ignored.items()))
    return 0


def dialect_of(words: Sequence[str], known: Sequence[str]) -> str:
    """Whose flags does the command line bring? Empty = those of ``salver`` itself.

    Raises:
        InvalidInput: those of something else.
    """
    if not words or words[0] != "serve":
        return ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--compat":
            asked = value if equals else "".join(words[index + 1 : index + 2])
            if asked not in known:
                raise InvalidInput(
                    f"--compat {asked!r} is not known", fix=f"Say: --compat {' or '.join(known)}"
                )
            return asked
    return ""
