"""Lessors in front of the lifecycle's: one holds versions, the other skips caches and logs."""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Generic

import msgspec

from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.ports import Inferring, Lease, Lessor, ServableT
from salver.words.errors import DeadlineExceeded, NotResident
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Signature, Standing


async def until_resident(absent: NotResident, deadline: float | None, clock: Callable[[], float]) -> None:
    """Bring a version into memory that is not there, and wait for it.

    Args:
        deadline: Of the request, by the clock; None = it has none.

    Raises:
        DeadlineExceeded: it did not arrive in time; loading goes on.
        NotReady, LoadFailed: why it cannot.
    """
    if absent.arrives is None:
        raise absent
    try:
        async with asyncio.timeout(None if deadline is None else deadline - clock()):
            await absent.arrives()
    except TimeoutError:
        raise DeadlineExceeded(f"{absent.message}, and was not loaded by the deadline") from None


class _Borrowed(msgspec.Struct, Generic[ServableT], frozen=True):
    """Lease whose release is left to the group that holds it."""

    id: ModelId
    servable: ServableT

    def release(self) -> None:
        """Do nothing."""


class HeldVersions(Generic[ServableT]):
    """Lessor of some model versions that it holds together.

    Args:
        models: Names and versions; an empty version means the newest that is ready now.

    Raises:
        NotFound, NotReady: a model is not ready; no lease is held.
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
        """Return a lease on a held version, or a new lease on any other."""
        return self._borrowed.get((name, version)) or self._lessor.acquire(name, version)

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """Return a new lease from the underlying lessor."""
        return self._lessor.other(name, version, is_wanted)

    def release(self) -> None:
        """Release all leases, once no request is running on them; a second call does nothing."""
        while self._leases:
            self._leases.pop().release()


class _QuietServable:
    """Servable without response cache and request log."""

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
    """Lessor of servables without response cache and request log."""

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
        if lease is None:
            return None
        return _quiet(lease)


def _quiet(lease: Lease[Inferring]) -> Lease[Inferring]:
    return _QuietLease(lease.id, _QuietServable(lease.servable), lease.release)
