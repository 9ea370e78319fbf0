"""Protocols that the memory budget calls."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from salver.kernel.lifecycle.ports import Outline
from salver.words.messages import ModelId


class Outlined(Protocol):
    """Loaded version."""

    @property
    def outline(self) -> Outline:
        """Facts for its metadata."""
        ...

    @property
    def processes(self) -> Sequence[int]:
        """Ids of the host processes in which it runs; empty = it runs in the server."""
        ...

    @property
    def largest_run(self) -> int:
        """Most rows in one run."""
        ...

    def limit_rows(self, most: int) -> None:
        """Limit the rows of a run from now on."""
        ...


class Lifecycle(Protocol):
    """Loading of versions (the kernel's manager)."""

    def leases(self, id: ModelId) -> int:
        """Return how many requests use a version."""
        ...

    def servable(self, id: ModelId) -> Outlined | None:
        """Return a version that answers now; None = it does not."""
        ...

    async def outcome(self, id: ModelId) -> str:
        """Wait until a version answers or has failed; return the reason of the failure, or empty."""
        ...

    async def ended(self, id: ModelId) -> None:
        """Wait until the copies of a version are gone."""
        ...


class Use(NamedTuple):
    """Memory of a process, in bytes.

    Attributes:
        pss: Proportional set: what it shares counts by its part.
        own: What no other process has, so that it is free when this one ends.
        resident: Resident set.
        peak: The largest that the resident set was.
    """

    pss: int = 0
    own: int = 0
    resident: int = 0
    peak: int = 0


class DeviceUse(NamedTuple):
    """Memory of a device, in bytes.

    Attributes:
        total: What it has.
        free: What nobody uses, other programs included.
        largest: Largest piece of that.
        processes: What each process uses, by id, as far as the system tells.
    """

    total: int
    free: int
    largest: int
    processes: Mapping[int, int]


class Usage(NamedTuple):
    """Memory of the server and its processes.

    Attributes:
        server: The server's own process.
        hosts: Host processes, each with the processes that it has started.
        shared: Bytes of fork servers, and of what hosts share.
        devices: GPUs of the machine, by number as CUDA counts them; empty = none has a budget.
    """

    server: Use
    hosts: Mapping[int, Use]
    shared: int
    devices: Mapping[int, DeviceUse] = {}

    @property
    def total(self) -> int:
        """Bytes that are used by everything."""
        return self.server.pss + self.shared + sum(host.own for host in self.hosts.values())


class Meter(Protocol):
    """Memory of the server and its processes."""

    def read(self, *, is_exact: bool, trims: bool = False) -> Usage:
        """Return what is used. Blocking.

        Args:
            is_exact: False = what was read last will do, with the growth of resident sets since.
            trims: Give back what the server's process has freed first, which halts it for some milliseconds.
        """
        ...

    def forget_peak(self) -> None:
        """Begin a new peak of the server's own process."""
        ...
