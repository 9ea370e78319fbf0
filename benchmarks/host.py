"""On what, and how quietly, was this measured?

Facts of the host stored beside each result, and the noise of a run: steal time and a small
limit kernel (a keep-alive TCP exchange, both ends in one thread) taken before and after.
"""

import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import ROOT

_PACKAGES = ("salver", "h2corn", "uvloop", "numpy", "onnxruntime", "orjson", "protobuf", "pysimdjson")


def facts() -> dict[str, Any]:
    """Host, versions, revision."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(asked, check=False, capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "revision": revision.stdout.strip(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def exchange_micros(rounds: int = 4000) -> float:
    """CPU microseconds of a 128-byte request and reply over a kept loopback connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    payload = bytes(128)
    best = float("inf")
    with client, server:
        for _ in range(5):
            started = time.thread_time()
            for _ in range(rounds):
                client.sendall(payload)
                server.recv(256)
                server.sendall(payload)
                client.recv(256)
            best = min(best, time.thread_time() - started)
    return best / rounds * 1e6


class Quiet:
    """Watches a run: was the machine ours alone?"""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._before = exchange_micros()
        self._ticks = _ticks()

    def verdict(self) -> dict[str, Any]:
        """Figures, and ``complaints`` if the run should be thrown away (empty when all is well)."""
        after, ticks = exchange_micros(), _ticks()
        passed = [b - a for a, b in zip(self._ticks, ticks, strict=True)]
        steal = passed[7] / max(1, sum(passed))
        drift = abs(after / self._before - 1)
        complaints = []
        if drift > 0.05:
            complaints.append(f"the limit kernel moved by {drift:.0%} between start and end")
        if self._load > 0.7:
            complaints.append(f"other programs were at work when it began (load average {self._load:.1f})")
        if steal > 0.01:
            complaints.append(f"{steal:.1%} of the time was stolen by other machines")
        return {
            "exchange_us": [round(self._before, 2), round(after, 2)],
            "steal": round(steal, 4),
            "load_average": round(self._load, 2),
            "complaints": complaints,
        }


class Others:
    """Watches a part of a run: which share of the machine did other programs and other machines take?

    Args:
        measured: CPU seconds of what is measured, so far; the time of this process and of its ended children
            is taken off as well. Kernel work for interrupts, the network's included, belongs to nobody.
    """

    def __init__(self, measured: Callable[[], float]) -> None:
        self._measured = measured
        self._before = self._now()

    def share(self) -> float:
        """Return what others had of the time of all cores, since the beginning."""
        all_, busy, own = (now - then for now, then in zip(self._now(), self._before, strict=True))
        return max(0.0, busy - own) / max(all_, 1e-9)

    def _now(self) -> tuple[float, float, float]:
        user, nice, system, idle, wait, irq, soft, steal = (tick / _HZ for tick in _ticks())
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages) + self._measured()
        busy = user + nice + system + steal
        return busy + idle + wait + irq + soft, busy, own


_HZ = os.sysconf("SC_CLK_TCK")


def _ticks() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
