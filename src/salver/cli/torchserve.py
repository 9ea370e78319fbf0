"""``salver torchserve``: TorchServe's command line, with ``--start`` and ``--stop``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from salver import __version__
from salver.cli import background
from salver.cli.start import run as serve
from salver.terminal.output import line

_STARTED: Final = "Model server started."


def run(words: Sequence[str]) -> int:
    """Start, stop or describe a server, as the words of a ``torchserve`` command line say."""
    # Imported here, as by each command: the dialect may be absent.
    from salver.dialects.torchserve.flags import VERSION, parse

    options = parse(words)
    if options.verb == "version":
        line(f"TorchServe Version is {VERSION}, as Salver {__version__} speaks it")
        return 0
    pid = background.running()
    if options.verb == "stop":
        return _stop(pid)
    if pid is not None and pid != os.getpid():
        line("TorchServe is already running, please use torchserve --stop to stop TorchServe.")
        return 1
    from salver.dialects.torchserve.command import configure

    start = configure(options, os.environ)
    if not options.is_foreground:
        background.launch(words)
        return 0
    with background.noted():
        return serve(start, _STARTED)


def without_compat(words: Sequence[str]) -> list[str]:
    """Return a command line of ``salver serve --compat torchserve`` without that flag.

    >>> without_compat(["--compat", "torchserve", "--start"])
    ['--start']
    """
    left = [word for word in words if not word.startswith("--compat=")]
    if "--compat" in left:
        at = left.index("--compat")
        del left[at : at + 2]
    return left


def _stop(pid: int | None) -> int:
    if pid is None:
        line("TorchServe is not currently running.")
        return 0
    if not background.stop(pid):
        line("Stopping TorchServe took too long.")
        return 1
    from salver.dialects.torchserve.flags import KEY_FILE

    Path(KEY_FILE).unlink(missing_ok=True)
    line("TorchServe has stopped.")
    return 0


def torchserve(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Serve as TorchServe does, with its options.

    Parameters
    ----------
    words
        As `torchserve` takes them; `salver torchserve --help` lists them.
    """
    return run(words)
