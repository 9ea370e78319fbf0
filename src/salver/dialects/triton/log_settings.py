"""Triton's log settings over the levels of Salver's log (TR-R10, TR-F5).

Information, warnings and errors have a switch each; debug lines are logged while the verbose level is above
0. Times are in ISO 8601 whatever the setting of the format.
"""

import logging
from collections.abc import Callable

import msgspec

from salver.dialects.triton.settings import LogChange, LogSettings
from salver.words.errors import Unsupported


class LogSwitches:
    """Log settings in force.

    Args:
        file: File of the log; empty = standard error.
        levels: Levels that are logged from the start.
        let_through: Changes the levels; returns False if the log is not this server's own.
    """

    def __init__(
        self, file: str, levels: frozenset[int], let_through: Callable[[frozenset[int]], bool]
    ) -> None:
        self._let_through = let_through
        self._settings = LogSettings(
            file,
            logging.INFO in levels,
            logging.WARNING in levels,
            logging.ERROR in levels,
            int(logging.DEBUG in levels),
        )

    def __repr__(self) -> str:
        return f"<LogSwitches {self._settings}>"

    def update(self, change: LogChange) -> LogSettings:
        """Return the settings after a change, which may be empty.

        Raises:
            Unsupported: The log belongs to a program that embeds this server.
        """
        settings = msgspec.structs.replace(self._settings, **change)
        if settings != self._settings and not self._let_through(_levels(settings)):
            raise Unsupported(
                "the log belongs to the program that embeds this server", fix="Change it there."
            )
        self._settings = settings
        return settings


def _levels(settings: LogSettings) -> frozenset[int]:
    switches = {
        logging.DEBUG: settings.log_verbose_level > 0,
        logging.INFO: settings.log_info,
        logging.WARNING: settings.log_warning,
        logging.ERROR: settings.log_error,
    }
    return frozenset(level for level, is_on in switches.items() if is_on)
