"""Protocols of what stands behind the transport."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Final, Protocol

from salver.lazy import lazy_imports
from salver.words.artifacts import LoadOrder
from salver.words.errors import NotFound
from salver.words.handlers import (
    Form,
    HandlerReply,
    HandlerStatus,
    Metadata,
    ModelListing,
    Registration,
    RegistrationResult,
    Scaled,
    WorkflowStatus,
)
from salver.words.messages import Call, ModelId, Signature, VersionStatus

with lazy_imports():
    from salver.transport.orca import TokenRoom


class HeaderInterest(Protocol):
    """Headers of requests that somebody needs (features/releases/experiments/router.py); they may change."""

    @property
    def headers(self) -> Mapping[bytes, str]:
        """Lower-case names, each with its name where it is used."""
        ...


class InferDoor(Protocol):
    """The one door for inference (kernel/serving/dataplane.py)."""

    def infer(
        self, codec: Any, body: Any, model: str, version: str, call: Call, sender: Hashable = None
    ) -> Awaitable[Any]:
        """The codec's reply, good or bad; see :meth:`salver.kernel.serving.dataplane.DataPlane.infer`."""
        ...

    def stream(
        self,
        codec: Any,
        body: Any,
        model: str,
        version: str,
        call: Call,
        write: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Awaitable[Any]:
        """The codec's reply, or None once ``write`` has had it in pieces; see
        :meth:`salver.kernel.serving.dataplane.DataPlane.stream`.
        """
        ...

    def post(
        self,
        codec: Any,
        body: Any,
        model: str,
        version: str,
        call: Call,
        tell: Callable[[Any, Any], None],
        *,
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """Begin with a request of a caller who waits in no task; None = ``infer`` or ``stream`` is to be
        asked; see :meth:`salver.kernel.serving.dataplane.DataPlane.post`.
        """
        ...

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """Raises NotFound or NotReady."""
        ...

    def is_decoupled(self, model: str, version: str = "") -> bool:
        """Gives it any number of responses to a request, and not just one? Unknown models do not."""
        ...


class Looking(Protocol):
    """Looks at what is loaded."""

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Every version known, with state and reason."""
        ...

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Return whether that model can answer, or, without a name, every model that should serve."""
        ...

    def version_of_label(self, model: str, label: str) -> str:
        """The version that one of the model's labels means now, loaded or not. Raises InvalidInput."""
        ...


class Control(Looking, Protocol):
    """Changes what is loaded."""

    async def load(self, model: str, order: LoadOrder) -> None:
        """Raises what kept it from loading."""
        ...

    async def unload(self, model: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Raises NotReady where the control mode forbids it.


        Args:
            dependents: And the models that were loaded for it, as an ensemble, and for no other.
            waits: Return when a model that came in a folder of its own has let go of it.
        """
        ...

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        """The model's versions that are or were to be served; those that have ended are GONE."""
        ...


class Exposition(Protocol):
    """Numbers that observers have counted."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics page and its content type."""
        ...

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        """How full a model that answers token by token is; None for others, and if it does not answer."""
        ...

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Where the time of a version's requests went, or that of the one with this id.

        Raises:
            NotFound: no such request is remembered.
        """
        ...


class _NoExposition:
    """Exposition of a server that counts nothing."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        return None

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        raise NotFound("this server keeps no account of requests", fix="Install the feature telemetry.")


NO_EXPOSITION: Final = _NoExposition()


class ModelName(Protocol):
    """What a name of OpenAI's routes stands for."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...


class ModelNames(Protocol):
    """Knows names that are no model's, such as those of LoRAs."""

    def of(self, name: str) -> ModelName:
        """Return what a name stands for. Raises NotFound or NotReady."""
        ...


class _NoNames:
    """Names of a server that knows none but its models'."""

    def of(self, name: str) -> ModelName:
        raise NotFound(f"there is no model {name!r}")


NO_NAMES: Final = _NoNames()


class HandlerChanges(Protocol):
    """Registers handlers, and changes how they are served (dialects/torchserve/handler_store.py).

    What is begun goes on to its end, though its caller leaves.
    """

    async def register(self, order: Registration) -> RegistrationResult:
        """Fetch, unpack and load it.

        Raises:
            NoModel, NoDownload, BadArchive, Conflict: it cannot be had, or is there already.
            WorkersFailed: it was taken out again, since its workers do not start.
        """
        ...

    async def unregister(self, model: str, version: str = "") -> None:
        """Take a version out, or the default one where that is the only one.

        Raises:
            NoModel, NoModelVersion: there is none.
            StillDefault: it is the default version, and there are others.
        """
        ...

    async def scale(
        self, model: str, version: str, least: int, most: int | None, *, waits: bool
    ) -> tuple[Scaled, int]:
        """Have so many workers from now on; how it went, and how many there are.

        Args:
            most: None = as ``least``.

        Raises:
            NoModel, NoModelVersion: there is none.
            InvalidInput: ``most`` is below ``least``.
        """
        ...

    def set_default(self, model: str, version: str) -> None:
        """Requests without a version go there. Raises NoModel or NoModelVersion."""
        ...


class Handlers(HandlerChanges, Protocol):
    """And tells of them."""

    def models(self) -> tuple[ModelListing, ...]:
        """Each of them, sorted by name."""
        ...

    def describe(self, model: str, version: str = "") -> tuple[HandlerStatus, ...]:
        """The default version, or that one; all with ``all``. Raises NoModel or NoModelVersion."""
        ...

    async def metadata(self, model: str, version: str) -> Metadata:
        """What the handler tells of itself. Raises NotReady: no worker is there."""
        ...

    def is_healthy(self) -> bool:
        """Return whether no model has been short of workers for longer than it may."""
        ...


class Workflows(Protocol):
    """Runs handlers one after another, and side by side (dialects/torchserve/workflows.py)."""

    async def register(self, order: Registration) -> str:
        """Have a workflow and the handlers of its nodes; its name.

        Raises:
            NoWorkflow, BadArchive, BadGraph, Conflict: it cannot be had, or is there already.
            WorkflowFailed: one of its nodes cannot be had; nothing of it is left.
        """
        ...

    async def unregister(self, name: str) -> None:
        """Take it out, and the handlers of its nodes. Raises NoWorkflow."""
        ...

    def statuses(self) -> tuple[WorkflowStatus, ...]:
        """All, sorted by name."""
        ...

    async def run(self, name: str, form: Form, call: Call) -> HandlerReply:
        """The answer of its last node; of several, a JSON object of theirs.

        Raises:
            NoWorkflow: there is none.
            HandlerFailed: one of its nodes failed, as often as it may.
        """
        ...
