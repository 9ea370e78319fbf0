"""How is the server asked on behalf of a copy, so that it leaves no trace?

An ensemble, and a model that calls others in the trace of its request, ask further models while they answer
what a shadow asks. Those are told by the copy's trace, and asked by the same door with nobody behind it: no
splits, no kept answers, no log, no counts. A model that asks others outside its request's trace is not
recognised.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from salver.features.releases.experiments.router import Plan
from salver.features.releases.splitting import Splitting
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane, Lease, Lessor
from salver.kernel.serving.ports import Inferring
from salver.words.messages import Call, ModelId
from salver.words.releases import Source

#: What is known of all that is asked in the service of a copy.
COPY: Final[Mapping[Source, str]] = {"copy": "true"}
BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


def is_copy(call: Call) -> bool:
    """Is it asked in the service of a copy?"""
    return call.traits is not None and "copy" in call.traits


def quiet(door: DataPlane[BodyT, ReplyT]) -> DataPlane[BodyT, ReplyT]:
    """The same door for what is asked in the service of a copy."""
    return door.through(_QuietLessor, Bus(), _Unsplit)


class _Unsplit(Splitting):
    """Nobody is in a release; what is asked in whose service is known all the same."""

    def __init__(self, splits: Splitting) -> None:
        super().__init__(splits.router)
        self.carried = splits.carried

    def begin(self, model: str, version: str, call: Call) -> Plan | None:
        return None


class _QuietServable:
    """It neither keeps its answers nor writes them down."""

    logging = None

    def __init__(self, servable: Inferring) -> None:
        self._servable = servable
        self.signature = servable.signature
        self.infer = getattr(servable, "uncached", servable.infer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servable, name)


class _QuietLease(msgspec.Struct, frozen=True):
    id: ModelId
    servable: Inferring
    release: Callable[[], None]


class _QuietLessor:
    """Hands the same leases out, on servables that are quiet."""

    def __init__(self, lessor: Lessor[Inferring]) -> None:
        self._lessor = lessor

    def acquire(self, name: str, version: str = "") -> Lease[Inferring]:
        """See :class:`~salver.kernel.serving.dataplane.Lessor`."""
        return _quiet_lease(self._lessor.acquire(name, version))

    def other(
        self, name: str, version: str, is_wanted: Callable[[Inferring], bool]
    ) -> Lease[Inferring] | None:
        """See :class:`~salver.kernel.serving.dataplane.Lessor`."""
        lease = self._lessor.other(name, version, is_wanted)
        return None if lease is None else _quiet_lease(lease)


def _quiet_lease(lease: Lease[Inferring]) -> Lease[Inferring]:
    return _QuietLease(lease.id, _QuietServable(lease.servable), lease.release)
