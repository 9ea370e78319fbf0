"""Lessors in front of the lifecycle's: one that holds versions, one that leaves no trace."""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic

import msgspec

from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.ports import Inferring, Lease, Lessor, ServableT
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Signature, Standing


class _Borrowed(msgspec.Struct, Generic[ServableT], frozen=True):
    """A lease that somebody else holds."""

    id: ModelId
    servable: ServableT

    def release(self) -> None:
        """Nothing."""


class Held(Generic[ServableT]):
    """Leases on some models, held together: a lessor of them.

    Args:
        models: Names and versions; an empty version is the newest that is ready now, and stays the one.

    Raises:
        NotFound, NotReady: as the lessor; then none is held.
    """

    def __init__(self, lessor: Lessor[ServableT], models: Iterable[tuple[str, str]]) -> None:
        self._lessor = lessor
        self._leases: list[Lease[ServableT]] = []
        self._borrowed: dict[tuple[str, str], _Borrowed[ServableT]] = {}
        try:
            for name, version in dict.fromkeys(models):
                lease = lessor.acquire(name, version)
                self._leases.append(lease)
                self._borrowed[name, version] = _Borrowed(lease.id, lease.servable)
        except BaseException:
            self.release()
            raise

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Return a lease that lasts as long as all of them; of other versions one of its own."""
        return self._borrowed.get((name, version)) or self._lessor.acquire(name, version)

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """Return a lease of its own, as the lessor gives it."""
        return self._lessor.other(name, version, is_wanted)

    def release(self) -> None:
        """Give all back, when no request to them is under way; a second call does nothing."""
        while self._leases:
            self._leases.pop().release()


class _QuietServable:
    """Neither keeps its answers nor has them written down."""

    def __init__(self, servable: Inferring) -> None:
        capabilities = servable.capabilities
        self.signature: Signature = servable.signature
        self.capabilities: Capabilities = msgspec.structs.replace(capabilities, recording=None)
        self._infer = capabilities.uncached or servable.infer

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """See :class:`~salver.kernel.serving.ports.Inferring`."""
        return await self._infer(request, deadline, sender, standing)


class _QuietLease(msgspec.Struct, frozen=True):
    id: ModelId
    servable: Inferring
    release: Callable[[], None]


class Quiet:
    """Hands the lessor's leases out, on servables that are quiet."""

    def __init__(self, lessor: Lessor[Inferring]) -> None:
        self._lessor = lessor

    def acquire(self, name: str, version: str = "") -> Lease[Inferring]:
        """See :class:`~salver.kernel.serving.ports.Lessor`."""
        return _quiet(self._lessor.acquire(name, version))

    def other(
        self, name: str, version: str, is_wanted: Callable[[Inferring], bool]
    ) -> Lease[Inferring] | None:
        """See :class:`~salver.kernel.serving.ports.Lessor`."""
        lease = self._lessor.other(name, version, is_wanted)
        return None if lease is None else _quiet(lease)


def _quiet(lease: Lease[Inferring]) -> Lease[Inferring]:
    return _QuietLease(lease.id, _QuietServable(lease.servable), lease.release)
