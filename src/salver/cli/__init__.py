"""What can be done from a shell?

One module a command; this one only registers them and turns an error into one line and an exit
status. The commands import the server and the client inside themselves, so that ``--help``, ``--version`` and
shell completion do not wait for them.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from salver import __version__
from salver.cli import tensorflow, torchserve, triton
from salver.cli.bench import bench
from salver.cli.doctor import doctor
from salver.cli.explain import explain
from salver.cli.given import dialect_of
from salver.cli.infer import infer
from salver.cli.migrate import migrate
from salver.cli.models import models
from salver.cli.output import report_error
from salver.cli.registry import registry
from salver.cli.rollout import rollout
from salver.cli.serve import serve
from salver.cli.tune import tune
from salver.errors import SalverError


def app() -> App:
    """The command line, as cyclopts sees it."""
    root = App(
        name="salver",
        version=__version__,
        help="Serve models of every framework from one process and one port.",
        default_parameter=Parameter(negative=(), show_default=_show_default),
        result_action="return_value",
    )
    for command in (serve, models, registry, rollout, infer, explain, bench, tune, doctor, migrate):
        root.command(command)
    root.command(_torchserve, name="torchserve")
    root.register_install_completion_command(help="Install completion for the shell in use.")
    return root


def _torchserve(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Serve as TorchServe does, with its options.

    Parameters
    ----------
    words
        As `torchserve` takes them; `salver torchserve --help` lists them.
    """
    return torchserve.run(words)


def _show_default(value: object) -> object:
    """Only a default that says something."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is False or value == "" else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 when something is wrong; a wrong command line exits with 2 by itself.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] == ["torchserve"]:
            return torchserve.run(words[1:])
        match dialect_of(words, ("triton", "tensorflow-serving", "torchserve")):
            case "triton":
                return triton.serve(words[1:])
            case "tensorflow-serving":
                return tensorflow.serve(words[1:])
            case "torchserve":
                return torchserve.run(torchserve.without_compat(words[1:]))
        return int(app()(words) or 0)
    except SalverError as error:
        report_error(error, json="--json" in words)
        return 1
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        sys.stderr.close()
        return 1
