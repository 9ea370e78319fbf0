"""What signals ask of a server: to end, to end sooner, to look again at its configuration.

SIGTERM and SIGINT ask to end, and a second one to end sooner. SIGHUP asks to look again; of a server that was
started on a terminal, and whose terminal is gone, to end. It knows no server.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from salver.kernel.supervise import Supervisor

_LOG: Final = logging.getLogger("salver")
_STDIN: Final = 0


class Signals:
    """Listens to the signals of this process.

    Args:
        hurry: Called with each wish to end that is not the first.
        reload: Looks again at the configuration; runs once at a time.

    Attributes:
        asked: Set by the first wish to end.
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
        """From now on. Call it on the event loop of the main thread."""
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
        os.tcgetpgrp(_STDIN)  # of a terminal that has hung up, an error
    except OSError:
        return False
    return True
