"""What transports see and change of the models that are served.

One front for the control plane, the lifecycle and readiness; it decides nothing itself.
"""

from salver.kernel.lifecycle.manager import Manager
from salver.kernel.serving.controlplane import ControlPlane
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import VersionStatus


class ServerControl:
    """States of models, and the orders to load and unload them (transport.ports.Control)."""

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
        """Return every version known, loaded or not."""
        return self._plane.index()

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Return whether that model can answer; without a name, whether the server is ready."""
        if not model:
            return await self.readiness.is_ready()
        return not self.readiness.is_ending and await self.answers(model, version)

    async def answers(self, model: str, version: str = "") -> bool:
        """Return whether that model can answer, also while the server stops."""
        try:
            lease = self._manager.acquire(model, version)
        except InvalidInput:  # the version cannot exist
            raise
        except SalverError:
            return False
        try:
            return await lease.servable.answers()
        finally:
            lease.release()

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        """Return the model's versions that are or were to be served."""
        return self._manager.versions(model)

    def version_of_label(self, model: str, label: str) -> str:
        """Return the version that one of the model's labels means now."""
        return self._manager.version_of_label(model, label)

    async def load(self, model: str, order: LoadOrder) -> None:
        """Load a model, and return when it is there. Raises what kept it from loading."""
        await self._plane.load(model, order)

    async def unload(self, model: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Unload a model. Raises NotReady where the control mode forbids it."""
        await self._plane.unload(model, dependents=dependents, waits=waits)
