"""What can be done from a shell?

One module a command; this one only registers them and turns an error into one line and an exit
status. The commands import the server and the client inside themselves, so that ``--help``, ``--version`` and
shell completion do not wait for them.
"""

import os
import re
import sys
from collections.abc import MutableMapping, Sequence
from typing import Annotated, Final

from cyclopts import App, Parameter
from cyclopts.config import Env

from salver import __version__
from salver.cli.compat import serve_as
from salver.cli.config import config
from salver.cli.doctor import doctor
from salver.cli.infer import infer
from salver.cli.migrate import migrate
from salver.cli.models import models
from salver.cli.serve import serve
from salver.features.registry.command import registry
from salver.features.releases.command import rollout
from salver.features.telemetry.explain_command import explain
from salver.features.tuning.bench_command import bench
from salver.features.tuning.tune_command import tune
from salver.terminal.output import report_error
from salver.words.errors import SalverError

#: Variables that Kubernetes sets in every pod beside a service called "salver".
_OF_A_SERVICE: Final = re.compile(r"SALVER_(SERVICE_(HOST|PORT).*|PORT_\d+_(TCP|UDP|SCTP).*|PORT)")


def app() -> App:
    """Return the command line.

    Each option can be given by an environment variable, too: ``SALVER_PORT`` for ``salver serve --port``,
    ``SALVER_BENCH_SECONDS`` for ``salver bench --seconds``. Flags go before variables.
    """
    root = App(
        name="salver",
        version=__version__,
        help="Serve models of every framework from one process and one port. Each option can be given by an "
        "environment variable, too: SALVER_PORT for salver serve, SALVER_BENCH_SECONDS for salver bench.",
        default_parameter=Parameter(negative=(), show_default=_show_default),
        result_action="return_value",
        config=(Env("SALVER_", show=False),),
    )
    root.command(serve, config=(Env("SALVER_", command=False, show=False),))
    for command in (models, registry, rollout, infer, explain, bench, tune, doctor, config, migrate):
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
    return serve_as(["torchserve", *words]) or 0


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
    _forget_services(os.environ)
    try:
        status = serve_as(words)
        return int(app()(words) or 0) if status is None else status
    except SalverError as error:
        report_error(error, json="--json" in words)
        return 1
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        sys.stderr.close()
        return 1


def _forget_services(environment: MutableMapping[str, str]) -> None:
    """Remove what Kubernetes says of a service called "salver", such as ``SALVER_PORT=tcp://…``."""
    for name, value in list(environment.items()):
        if _OF_A_SERVICE.fullmatch(name) and (name != "SALVER_PORT" or "://" in value):
            del environment[name]
