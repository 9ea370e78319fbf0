"""Command lines of other servers: flags by name, each of a type.

What each flag means stands in the server's dialect.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from salver.words.errors import InvalidInput

FlagType = Literal["text", "int", "seconds", "bool", "switch", "three"]
#: Flags by name: the type, and a line for --help or the reason why it has no effect.
FlagTable = Mapping[str, tuple[FlagType, str]]
YES: Final = ("true", "on", "1")
NO: Final = ("false", "off", "0")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class CommandLine(NamedTuple):
    """The flags of a server's program.

    Attributes:
        name: The value of ``--compat``.
        program: The server's own program.
        used: Flags with an effect; whole numbers among them are not negative.
        ignored: Flags without one, and why.
        own: Flags of ``salver serve`` that go with them.
        models: How models are named, for error messages.
        usual: The flag that most command lines have.
        version: Answer to ``--version``; empty = the program has no such flag.
    """

    name: str
    program: str
    used: FlagTable
    ignored: FlagTable
    own: FlagTable
    models: str
    usual: str
    version: str = ""

    @property
    def types(self) -> dict[str, FlagType]:
        """Return the type of each flag."""
        tables = (self.used, self.ignored, self.own)
        return {name: kind for flags in tables for name, (kind, _) in flags.items()}


class ParsedFlags:
    """The flags of one command line, by name, in their order.

    Raises:
        InvalidInput: an unknown flag, or a value that does not fit its type.
    """

    def __init__(self, words: Sequence[str], line: CommandLine) -> None:
        self._values: dict[str, list[str]] = {}
        self._line = line
        self._types = line.types
        left = list(words)
        while left:
            name, value = self._take(left)
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a flag that may be repeated."""
        return tuple(self._values.get(name, ()))

    def text(self, name: str, default: str = "") -> str:
        """Return the last value of a flag."""
        if name not in self._values:
            return default
        return self._values[name][-1]

    def number(self, name: str, default: int) -> int:
        """Return a whole number of at least 0."""
        return int(self.text(name, str(default)))

    def seconds(self, name: str, default: float) -> float:
        """Return seconds, with fractions, of at least 0."""
        return float(self.text(name, str(default)))

    def is_on(self, name: str, default: bool) -> bool:
        """Return the value of a flag that is true or false."""
        if name not in self._values:
            return default
        return self.text(name).lower() in YES

    def port(self, name: str, default: int) -> int:
        """Return a port. Raises InvalidInput above 65535."""
        port = self.number(name, default)
        if port > 65535:
            raise InvalidInput(f"--{name} {port} is not a port", fix="Give a number from 0 to 65535.")
        return port

    def without_effect(self) -> list[str]:
        """Return a line for the log about each flag that has no effect."""
        ignored = self._line.ignored
        return [
            f"--{name} is accepted and has no effect here: {ignored[name][1]}"
            for name in self
            if name in ignored
        ]

    def _take(self, left: list[str]) -> tuple[str, str]:
        """Take the next flag and its value off the words."""
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise InvalidInput(f"unexpected argument {word!r}", fix=self._line.models)
        if name not in (*self._types, "compat"):
            raise self._unknown(name)
        kind = self._types.get(name, "text")
        if not equals:
            value = self._next_value(name, kind, left)
        if kind == "three":
            if len(left) < 2:
                raise InvalidInput(f"--{name} needs three values")
            value = "\n".join((value, left.pop(0), left.pop(0)))
        self._check(name, kind, value)
        return name, value

    def _unknown(self, name: str) -> InvalidInput:
        near = difflib.get_close_matches(name, self._types, 1)
        if near:
            fix = f"Did you mean --{near[0]}?"
        else:
            fix = f"salver serve --compat {self._line.name} --help lists the flags."
        return InvalidInput(f"{self._line.program} has no flag --{name} that Salver knows", fix=fix)

    def _next_value(self, name: str, kind: FlagType, left: list[str]) -> str:
        if kind == "switch" or (kind == "bool" and (not left or left[0].lower() not in YES + NO)):
            return "true"
        if not left:
            raise InvalidInput(f"--{name} needs a value")
        return left.pop(0)

    def _check(self, name: str, kind: FlagType, value: str) -> None:
        if kind in ("bool", "switch") and value.lower() not in YES + NO:
            raise InvalidInput(f"--{name} must be true or false, not {value!r}")
        if kind == "int" and not (value.isascii() and value.removeprefix("-").isdigit()):
            raise InvalidInput(f"--{name} must be a whole number, not {value!r}")
        if kind == "seconds" and not _SECONDS.fullmatch(value):
            raise InvalidInput(f"--{name} must be a number of seconds such as 10 or 0.5, not {value!r}")
        if kind == "int" and name in self._line.used and value.startswith("-"):
            raise InvalidInput(f"--{name} must not be negative")
