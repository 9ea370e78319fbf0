"""Resources that the versions of a release need: time in the model, and CPU time and memory of its processes.

Only what belongs to one version is measured: runs of the model, and the host processes in which it runs. A
model that runs inside the server has no CPU time or memory of its own, and neither is reported for it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from salver.words.events import BatchRan
from salver.words.releases import ResourceUse, Spent

#: Metrics of the kind ``resource``: seconds in the model per request, CPU seconds of the host processes per
#: request, and resident bytes per host process.
RUN_TIME, CPU, MEMORY = "run_time", "cpu", "memory"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """CPU time of a process since its start, and its resident memory."""

    cpu_seconds: float
    resident_bytes: int


def usage(pid: int) -> Usage | None:
    """Return what a process has used; None = it is not known, as outside Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    # In proc_pid_stat(5), utime and stime are fields 14 and 15, and rss is 24; the first one here is field 3.
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE)


class ResourceMeter:
    """Meter of two versions of a model.

    Args:
        processes: Returns the ids of the host processes of a version; empty = it has none.
        read: As :func:`usage`.
    """

    def __init__(
        self,
        model: str,
        versions: tuple[str, str],
        processes: Callable[[str, str], Sequence[int]],
        read: Callable[[int], Usage | None] = usage,
    ) -> None:
        self._model = model
        self._versions = versions
        self._processes = processes
        self._read = read
        self._ran = dict.fromkeys(versions, Spent())
        #: CPU seconds by process id at the last look; of a new one, nothing before its first look counts.
        self._known: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<ResourceMeter of {self._model}, versions {' and '.join(self._versions)}>"

    def ran(self, run: BatchRan) -> None:
        """Record a run."""
        if run.model == self._model and (spent := self._ran.get(run.version)) is not None and run.ok:
            self._ran[run.version] = Spent(spent.amount + run.duration, spent.units + run.requests)

    def taken(self) -> Mapping[str, ResourceUse]:
        """Return what canary and stable version have used since the last call, where it is known of both."""
        ran = self._ran
        self._ran = dict.fromkeys(self._versions, Spent())
        canary, stable = (ran[version] for version in self._versions)
        found = {RUN_TIME: ResourceUse(canary, stable)} if canary.units and stable.units else {}
        seen = [self._of_hosts(version) for version in self._versions]
        self._known = {pid: used.cpu_seconds for hosts in seen for pid, used in hosts[1].items()}
        if all(hosts for _, hosts in seen):
            if found:
                found[CPU] = ResourceUse(
                    *(
                        Spent(seconds, ran[version].units)
                        for version, (seconds, _) in zip(self._versions, seen, strict=True)
                    )
                )
            found[MEMORY] = ResourceUse(
                *(
                    Spent(float(sum(used.resident_bytes for used in hosts.values())), len(hosts))
                    for _, hosts in seen
                )
            )
        return found

    def _of_hosts(self, version: str) -> tuple[float, dict[int, Usage]]:
        """Return the CPU seconds since the last look, and what each process has used."""
        hosts = {}
        for pid in self._processes(self._model, version):
            if (used := self._read(pid)) is not None:
                hosts[pid] = used
        seconds = sum(
            used.cpu_seconds - self._known.get(pid, used.cpu_seconds) for pid, used in hosts.items()
        )
        return seconds, hosts
