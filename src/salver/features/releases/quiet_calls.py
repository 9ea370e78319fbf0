"""Calls of models on behalf of a shadow request, without side effects.

An ensemble, and a model that calls others in the trace of its request, call further models while they answer
a copy. Such calls are recognised by the copy's trace and answered without splits, cached answers, logs and
counts. A model that calls others outside its request's trace is not recognised.
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

#: Assignment of all calls on behalf of a copy.
COPY: Final[Mapping[Source, str]] = {"copy": "true"}
BodyT = TypeVar("BodyT")
ReplyT = TypeVar("ReplyT")


def is_copy(call: Call) -> bool:
    """Return whether a request is made on behalf of a copy."""
    return call.traits is not None and "copy" in call.traits


def quiet(door: DataPlane[BodyT, ReplyT]) -> DataPlane[BodyT, ReplyT]:
    """Return a data plane without side effects for calls on behalf of a copy."""
    return door.through(_QuietLessor, Bus(), _Unsplit)


class _Unsplit(Splitting):
    """Splitter without releases that still passes on the parent of a call."""

    def __init__(self, splits: Splitting) -> None:
        super().__init__(splits.router)
        self.carried = splits.carried

    def begin(self, model: str, version: str, call: Call) -> Plan | None:
        return None


class _QuietServable:
    """Servable that neither caches answers nor logs them."""

    logging = None

    def __init__(self, servable: Inferring) -> None:
        self._servable = servable
        self.signature = servable.signature
        self.infer = getattr(servable, "uncached", servable.infer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servable, name)


class _QuietLease(msgspec.Struct, frozen=True):
    """Lease on a quiet servable."""

    id: ModelId
    servable: Inferring
    release: Callable[[], None]


class _QuietLessor:
    """Lessor that grants the same leases on quiet servables."""

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
