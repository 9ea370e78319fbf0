"""Messages to systemd: ready, alive, reloaded, stopping.

Source: sd_notify(3), systemd.service(5) ``Type=notify-reload`` and ``WatchdogSec=``.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from salver.kernel.supervise import Supervisor
from salver.parts import Kernel, Parts, Tick
from salver.words.messages import State

_LOG: Final = logging.getLogger("salver.systemd")
#: Seconds beyond drain delay and grace in which a server unloads its models.
_UNLOAD_S: Final = 30.0


class Notifier:
    """Datagrams to the service manager; one that cannot be sent is logged, and the server goes on.

    Args:
        address: Path of its socket; ``@`` first = an abstract name (Linux).
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def __repr__(self) -> str:
        return f"<Notifier {self._address!r}>"

    def send(self, *lines: str) -> None:
        """Send one message of several assignments."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _LOG.warning("systemd was not told %s: %s", lines[0], error)


def watchdog_s(environment: MutableMapping[str, str], pid: int) -> float:
    """Return the seconds within which systemd expects a sign of life; 0 = it expects none.

    The variables are taken out of the environment: they are for this process alone.
    """
    microseconds, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if process not in ("", str(pid)) or not microseconds.isdecimal():
        return 0.0
    return int(microseconds) / 1e6


async def build(kernel: Kernel, config: None) -> Parts:
    """Tell systemd, if it has asked for it by ``NOTIFY_SOCKET``."""
    notifier = Notifier(os.environ.pop("NOTIFY_SOCKET"))
    alive_s = watchdog_s(os.environ, os.getpid())
    telling = Supervisor(_LOG, "systemd was not told that the server is ready")
    limits = kernel.config.front.grace_seconds + kernel.config.drain_delay + _UNLOAD_S

    def status() -> str:
        states = [version.state for version in kernel.models.statuses()]
        return f"STATUS={states.count(State.READY)} of {len(states)} versions ready"

    async def tell_ready() -> None:
        await kernel.models.settled()
        notifier.send("READY=1", status())

    async def start() -> None:
        telling.start("readiness", tell_ready())

    async def live() -> None:
        notifier.send("WATCHDOG=1", status())

    async def look() -> None:
        notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        notifier.send("READY=1", status())

    async def leave() -> None:
        await telling.close()
        notifier.send("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={limits * 1e6:.0f}")

    ticks = [Tick("sign of life for systemd", alive_s / 2, live)] if alive_s else []
    return Parts(ticks=ticks, start=start, look=look, leave=leave)
