"""State of a process that one test could leave to the next."""

import csv
import gc
import os
import signal
import socket
import sys
from typing import Any, NamedTuple

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class ProcessState(NamedTuple):
    """What a test may change while it runs, if it puts it back."""

    folder: str
    environment: dict[str, str]
    path: list[str]
    handlers: list[Any]
    csv_limit: int
    socket_timeout: float | None
    collects: bool

    @classmethod
    def now(cls) -> "ProcessState":
        """Return the present state."""
        environment = dict(os.environ)
        environment.pop("PYTEST_CURRENT_TEST", None)
        return cls(
            os.getcwd(),  # noqa: PTH109 - this runs for each test
            environment,
            sys.path.copy(),
            [signal.getsignal(number) for number in _SIGNALS],
            csv.field_size_limit(),
            socket.getdefaulttimeout(),
            gc.isenabled(),
        )

    def restore(self) -> str:
        """Put everything back, and return the names of what had changed, with the new values."""
        now = self.now()
        if now == self:
            return ""
        os.chdir(self.folder)
        for name in now.environment.keys() - self.environment.keys():
            del os.environ[name]
        os.environ.update(self.environment)
        sys.path[:] = self.path
        for number, handler in zip(_SIGNALS, self.handlers, strict=True):
            if handler is not None:  # of one that is not written in Python
                signal.signal(number, handler)
        csv.field_size_limit(self.csv_limit)
        socket.setdefaulttimeout(self.socket_timeout)
        (gc.enable if self.collects else gc.disable)()
        return ", ".join(
            f"{name} {_difference(old, new)}"
            for name, old, new in zip(self._fields, self, now, strict=True)
            if old != new
        )


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict):
        changed = {name for name, _ in old.items() ^ new.items()}
        return ", ".join(f"{name}={new.get(name)}" for name in sorted(changed))
    return repr(new)
