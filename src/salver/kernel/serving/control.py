"""What may transports see and change of what is served?

One front for the control plane, the lifecycle and the lists of models; it decides nothing itself.
"""

from salver.dialects.openai.voice import Spoken
from salver.dialects.openai.voices import Voices
from salver.dialects.tensorflow import tf_schema
from salver.dialects.tensorflow.reloading import Reloading
from salver.dialects.triton.version_config import config_of
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.serving.controlplane import ControlPlane
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import VersionStatus


class ServerControl:
    """What transports may see and change (transport.ports.Control)."""

    def __init__(
        self,
        plane: ControlPlane,
        manager: Manager[Servable],
        reloading: Reloading,
        voices: Voices,
        readiness: Readiness,
    ) -> None:
        self._plane = plane
        self._voices = voices
        self._manager = manager
        self._reloading = reloading
        self.readiness = readiness

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Every version known, loaded or not."""
        return self._plane.index()

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Can that model answer, or, without a name, every model that should serve?"""
        if not model:
            return await self.readiness.is_ready()
        return not self.readiness.is_ending and await self.answers(model, version)

    async def answers(self, model: str, version: str = "") -> bool:
        """Can that model answer, also while the server parts from its callers?"""
        try:
            lease = self._manager.acquire(model, version)
        except InvalidInput:  # no version that there could be
            raise
        except SalverError:
            return False
        try:
            return await lease.servable.answers()
        finally:
            lease.release()

    def speech(self, name: str) -> Spoken:
        """Whom OpenAI's routes mean by that name."""
        return self._voices.of(name)

    def model_config(self, model: str, version: str = "") -> bytes:
        """Its whole configuration, a serialised ModelConfig."""
        lease = self._manager.acquire(model, version)
        try:
            servable = lease.servable
            decoupled = servable.capabilities.stream is not None
            return config_of(
                servable.manifest, servable.signature, servable.placement.slots, decoupled=decoupled
            )
        finally:
            lease.release()

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        """The model's versions that are or were to be served."""
        return self._manager.versions(model)

    def version_of_label(self, model: str, label: str) -> str:
        """The version that one of the model's labels means now."""
        return self._manager.version_of_label(model, label)

    async def load(self, model: str, order: LoadOrder) -> None:
        """Returns when it is there; raises what kept it from loading."""
        await self._plane.load(model, order)

    async def reload_config(self, config: bytes) -> None:
        """Serve the models that a serialised ModelServerConfig lists, and no others."""
        await self._reloading.reload(tf_schema.build()["ModelServerConfig"].FromString(config))

    async def unload(self, model: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Take it out; raises NotReady where the control mode forbids it."""
        await self._plane.unload(model, dependents=dependents, waits=waits)
