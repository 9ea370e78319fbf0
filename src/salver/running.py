"""Server as a process, from its configuration to a signal and the exit status.

SIGTERM and SIGINT stop it, a second one without delay. SIGHUP reloads its configuration, or stops a server
whose terminal is gone.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from salver.app import Server
from salver.configuration import ServeConfig
from salver.kernel.logs import LogConfig, configure
from salver.kernel.supervise import Supervisor
from salver.machine import keep_freed_memory, keep_one_heap, sleep_between_parts, tune_interpreter
from salver.ready import ReadyInfo, ready_info
from salver.words.errors import LoadFailed

_LOG = logging.getLogger("salver")
_STDIN: Final = 0


async def serve(
    config: ServeConfig, on_ready: Callable[[ReadyInfo], None], notices: Sequence[str] = ()
) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status of the process.

    Args:
        on_ready: Called once, when all first loads have ended, successfully or not.
        notices: Warnings to log first.

    Raises:
        SalverError: the server could not start.
    """
    keep_one_heap()
    sleep_between_parts()
    configure(config.table("log", LogConfig))
    for notice in notices:
        _LOG.warning("%s", notice)
    server = Server(config)
    signals = Signals(server.hurry, server.reload)
    signals.listen()
    asked = signals.asked
    starting = asyncio.create_task(server.start())
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # it is waiting for models
        starting.cancel()
        await asyncio.wait({starting})
        await server.stop()
        return 0
    await starting
    told = asyncio.create_task(_tell(server, on_ready))
    ends = asyncio.create_task(server.ended())
    may_end = config.exits_on_error or config.exits_if_none_loads
    waiting = {ends, stop, told} if may_end else {ends, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    fault = told.result() if may_end and told.done() else None
    if fault is None and not ends.done() and not stop.done():
        await asyncio.wait({ends, stop}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    delay = config.drain_delay if asked.is_set() else 0.0
    _say_farewell(delay, config.front.grace_seconds)
    await server.stop(delay)
    for task in (ends, stop, told):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    if fault is not None:
        raise fault
    return 0 if asked.is_set() else 1


def _say_farewell(delay_s: float, grace_s: float) -> None:
    if delay_s:
        _LOG.info("draining: not ready, new requests for %g s yet (a second signal ends that)", delay_s)
    else:
        _LOG.info("stopping: no new requests, %g s for those in flight", grace_s)


async def _tell(server: Server, on_ready: Callable[[ReadyInfo], None]) -> LoadFailed | None:
    """Report that all first loads have ended; return why the server must stop now, or None."""
    is_well = await server.settled()
    tune_interpreter()
    keep_freed_memory()
    if server.config.exits_if_none_loads and server.has_nothing():
        log_file = server.config.table("log", LogConfig).file
        reasons = [
            f"\n{status.id}: {status.reason}"
            for status in server.control.statuses()
            if status.reason and (log_file or "\n" in status.reason)  # otherwise the log has said it
        ]
        return LoadFailed("no model has loaded" + "".join(reasons))
    try:
        on_ready(await ready_info(server))
    except Exception:  # a report that cannot be shown must not stop the server, but is logged
        _LOG.exception("the start-up report failed")
    if is_well or not server.config.exits_on_error:
        return None
    return LoadFailed(
        "ending, since not every model has loaded", fix="--exit-on-error=false serves the others."
    )


class Signals:
    """Signal handlers of this process.

    Args:
        hurry: Called by each signal to stop after the first.
        reload: Reloads the configuration; never runs twice at a time.

    Attributes:
        asked: Set by the first signal to stop.
    """

    def __init__(self, hurry: Callable[[], None], reload: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.asked = asyncio.Event()
        self._hurry = hurry
        self._reload = reload
        self._tasks = Supervisor(_LOG, "the configuration was not read again")
        self._is_on_terminal = _has_terminal()

    def __repr__(self) -> str:
        return f"<Signals, {'asked' if self.asked.is_set() else 'not asked'} to end>"

    def listen(self) -> None:
        """Install the handlers. Call it on the event loop of the main thread."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        if sys.platform != "win32":
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _end(self) -> None:
        if self.asked.is_set():
            self._hurry()
        self.asked.set()

    def _hang_up(self) -> None:
        if self._is_on_terminal and not _has_terminal():
            self.asked.set()
        else:
            self._tasks.start_unless_running("reload", self._reload)


def _has_terminal() -> bool:
    try:
        os.tcgetpgrp(_STDIN)  # fails if the terminal has hung up
    except OSError:
        return False
    return True
