"""``salver serve --compat``: the command lines of other servers.

A dialect's ``configure`` turns flags into a configuration; this module runs the server with it.
"""

import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from salver.cli.start import run
from salver.lazy import lazy_imports
from salver.terminal.output import line, table
from salver.words.errors import InvalidInput

with lazy_imports():
    from salver.terminal.server_flags import CommandLine


if TYPE_CHECKING:
    from salver.configuration import Startup


class _Program(NamedTuple):
    """Import paths of the flags of a server's program, and of the function that reads them."""

    flags: str
    configure: str


#: By the value of ``--compat``. Modules are imported when they are needed.
_PROGRAMS: Final = {
    "triton": _Program("salver.dialects.triton.flags:TRITON", "salver.dialects.triton.command:configure"),
    "tensorflow-serving": _Program(
        "salver.dialects.tensorflow.flags:TENSORFLOW", "salver.dialects.tensorflow.command:configure"
    ),
}
_TORCHSERVE: Final = "torchserve"


def serve_as(words: Sequence[str]) -> int | None:
    """Run a whole command line if it asks for another server's flags; return its exit status.

    Returns None for command lines with Salver's own flags.

    Raises:
        InvalidInput: the server is unknown, or a flag is wrong.
    """
    name = _TORCHSERVE
    if words[:1] != [_TORCHSERVE]:
        name = server_of(words)
    if not name:
        return None
    if name == _TORCHSERVE:
        from salver.cli import torchserve

        return torchserve.run(torchserve.without_compat(words[1:]))
    flags, configure = map(pkgutil.resolve_name, _PROGRAMS[name])
    return _serve(flags, configure, words[1:])


def server_of(words: Sequence[str]) -> str:
    """Return the server whose flags the command line has; empty for Salver's own.

    Raises:
        InvalidInput: the server is unknown.
    """
    if words[:1] != ["serve"]:
        return ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--compat":
            server = value
            if not equals:
                server = "".join(words[index + 1 : index + 2])
            known = (*_PROGRAMS, _TORCHSERVE)
            if server not in known:
                fix = f"Say: --compat {' or '.join(known)}"
                raise InvalidInput(f"--compat {server!r} is not known", fix=fix)
            return server
    return ""


def _serve(
    flags: CommandLine,
    configure: "Callable[[Sequence[str], Mapping[str, str]], Startup]",
    words: Sequence[str],
) -> int:
    if "--help" in words:
        return _help(flags)
    if flags.version and any(word.partition("=")[0] == "--version" for word in words):
        line(flags.version)
        return 0
    return run(configure(words, os.environ))


def _help(flags: CommandLine) -> int:
    line(f"Usage: salver serve --compat {flags.name} {flags.usual} [FLAGS]")
    line("")
    line(f"Flags of {flags.program}, as --name value or --name=value. With an effect:")
    shown = {**flags.used, **flags.own}
    table(("flag", "meaning"), tuple((f"--{name}", text) for name, (_, text) in shown.items()))
    line("")
    line("Accepted, without an effect here:")
    table(("flag", "why"), tuple((f"--{name}", why) for name, (_, why) in flags.ignored.items()))
    return 0
