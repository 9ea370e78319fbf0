"""What is logged now, and how a caller changes it.

Triton's switches (TR-R10, TR-F5) over the levels of our log: information, warnings and errors one by one, and
debugging while the verbose level is above 0. A line's time is in ISO 8601 whatever the format is called.
"""

import logging
from collections.abc import Callable

import msgspec

from salver.dialects.triton.settings import LogChange, LogSettings
from salver.words.errors import Unsupported


class Switches:
    """The settings in force.

    Args:
        file: Takes the log; empty = standard error does.
        levels: Those that are logged from the start.
        let_through: Changes them; returns False where the log is not this server's own.
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
        return f"<Switches {self._settings}>"

    def update(self, change: LogChange) -> LogSettings:
        """The settings after a change, which may be empty.

        Raises:
            Unsupported: the log is that of a program around us.
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
