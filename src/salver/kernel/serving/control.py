"""Facade of control plane, lifecycle and readiness for transports. It decides nothing itself."""

import msgspec

from salver.kernel.lifecycle.manager import Manager
from salver.kernel.serving.controlplane import ControlPlane
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, NotResident, SalverError
from salver.words.messages import VersionStatus


class ServerControl:
    """Model states, and orders to load and unload (transport.ports.Control)."""

    def __init__(
        self,
        plane: ControlPlane,
        manager: Manager[Servable],
        readiness: Readiness,
    ) -> None:
        self._plane = plane
        self._manager = manager
        self.readiness = readiness

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Return every version known, loaded or not, with the digests of those that have one."""
        rows, loaded = self._plane.index(), self._manager.servables()
        digests = {each.manifest.id: digest for each in loaded if (digest := each.signature.digest)}
        if not digests:
            return rows
        return tuple(msgspec.structs.replace(row, digest=digests.get(row.id, "")) for row in rows)

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Return whether that model can answer; without a name, whether the server is ready."""
        if not model:
            return await self.readiness.is_ready()
        return not self.readiness.is_ending and await self.answers(model, version)

    async def answers(self, model: str, version: str = "") -> bool:
        """Return whether a model can answer, even while the server stops."""
        try:
            lease = self._manager.acquire(model, version)
        except InvalidInput:  # the version cannot exist
            raise
        except NotResident:
            return True
        except SalverError:
            return False
        try:
            return await lease.servable.answers()
        finally:
            lease.release()

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        """Return the model's versions that are or were wanted."""
        return self._manager.versions(model)

    def version_of_label(self, model: str, label: str) -> str:
        """Return the version that a label of the model points to."""
        return self._manager.version_of_label(model, label)

    async def load(self, model: str, order: LoadOrder) -> None:
        """Load a model and wait until it is ready. Raises the error that prevented it."""
        await self._plane.load(model, order)

    async def unload(self, model: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Unload a model. Raises NotReady where the control mode forbids it."""
        await self._plane.unload(model, dependents=dependents, waits=waits)
