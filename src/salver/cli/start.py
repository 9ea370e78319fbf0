"""Running a server from a command line, with the start-up block."""

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from salver.terminal.output import line, on_terminal, record, table

if TYPE_CHECKING:
    from salver.configuration import Startup
    from salver.ready import ReadyInfo


def run(start: "Startup", closing: str = "") -> int:
    """Serve until a signal; return the exit status.

    Args:
        closing: Line after the start-up block, for programs that wait for it.
    """
    # Imported here: the server is most of the start-up time.
    from salver.kernel.logs import LogConfig
    from salver.running import serve

    log_file = start.config.table("log", LogConfig).file
    return _run_loop(
        serve(start.config, lambda info: _announce(info, start, log_file, closing), start.notices)
    )


def _run_loop(main: Coroutine[None, None, int]) -> int:
    """Run a server in the fastest event loop that is installed."""
    import asyncio  # here, for the sake of --help

    try:
        from uvloop import new_event_loop
    except ImportError:  # not made for Windows
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def _announce(info: "ReadyInfo", start: "Startup", log_file: str, closing: str) -> None:
    """Print the start-up block.

    Why versions failed is left out where the same terminal shows the log.
    """
    from salver.cli import banner

    if start.json:
        record(banner.as_record(info))
        return
    block = banner.compose(info, is_logged=on_terminal() and sys.stderr.isatty() and not log_file)
    line(block.title)
    table(banner.COLUMNS, block.rows)
    for text in block.lines:
        line(text if not (on_terminal() and text.startswith("warning")) else f"\x1b[33m{text}\x1b[0m")
    for text in filter(None, (start.remark, closing)):
        line(text)
    sys.stdout.flush()
