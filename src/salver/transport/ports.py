"""Protocols that the transport calls."""

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
    """Request headers that a feature needs (features/releases/experiments/router.py); they may change."""

    @property
    def headers(self) -> Mapping[bytes, str]:
        """Lower-case header names, each with the name of its trait."""
        ...


class ModelView(Protocol):
    """Facts of a model that requests ask for."""

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        """Return a version's id and signature. Raises NotFound or NotReady."""
        ...

    def is_decoupled(self, model: str, version: str = "") -> bool:
        """Return whether a model may send any number of responses to a request; False if it is unknown."""
        ...


class Foresight(Protocol):
    """Refusal of requests of which only the head has come."""

    def foresee(self, codec: Any, model: str, version: str, call: Call) -> None:
        """Refuse a request of which only the head has come, if it can only be late.

        Raises:
            Overloaded, DeadlineExceeded: it can.
        """
        ...


class InferDoor(ModelView, Foresight, Protocol):
    """Entry point for inference (kernel/serving/dataplane.py)."""

    def infer(
        self, codec: Any, body: Any, model: str, version: str, call: Call, sender: Hashable = None
    ) -> Awaitable[Any]:
        """Return the codec's reply or error; see :meth:`salver.kernel.serving.dataplane.DataPlane.infer`."""
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
        """Return the codec's reply, or None if ``write`` got it in pieces.

        See :meth:`salver.kernel.serving.dataplane.DataPlane.stream`.
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
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """Start a request that is answered through a callback; None = call ``infer`` or ``stream`` instead.

        See :meth:`salver.kernel.serving.dataplane.DataPlane.post`.
        """
        ...


class StatusView(Protocol):
    """Read access to the loaded versions."""

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Return all known versions, with state and reason."""
        ...

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Return whether that model can answer, or, without a name, every model that should serve."""
        ...

    def version_of_label(self, model: str, label: str) -> str:
        """Return the version of a label, loaded or not. Raises InvalidInput."""
        ...


class Control(StatusView, Protocol):
    """Changes to the loaded versions."""

    async def load(self, model: str, order: LoadOrder) -> None:
        """Load a model. Raises the error that prevented it."""
        ...

    async def unload(self, model: str, *, dependents: bool = False, waits: bool = False) -> None:
        """Unload a model. Raises NotReady where the control mode forbids it.

        Args:
            dependents: Unload also the models that were loaded only for it, as for an ensemble.
            waits: Wait until a model that was uploaded has released its folder.
        """
        ...

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        """Return the model's versions that are or were wanted; unloaded ones are GONE."""
        ...


class Exposition(Protocol):
    """Metrics and explanations collected by observers."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        ...

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        """Return the use of a step-wise model; None for others, and if it does not respond."""
        ...

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Return where the time of a version's requests, or of one request, was spent.

        Raises:
            NotFound: no such request is remembered.
        """
        ...


class _NoExposition:
    """Exposition of a server without metrics."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        return None

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        raise NotFound("this server keeps no account of requests", fix="Install the feature telemetry.")


NO_EXPOSITION: Final = _NoExposition()


class ModelName(Protocol):
    """Meaning of a model name in OpenAI's routes."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...


class ModelNames(Protocol):
    """Lookup of names that may stand for adapters of a model, such as LoRAs."""

    def of(self, name: str) -> ModelName:
        """Return the meaning of a name. Raises NotFound or NotReady."""
        ...


class _NoNames:
    """Lookup of a server without adapters."""

    def of(self, name: str) -> ModelName:
        raise NotFound(f"there is no model {name!r}")


NO_NAMES: Final = _NoNames()


class HandlerChanges(Protocol):
    """Registration and scaling of handlers (dialects/torchserve/handler_store.py).

    A change is completed even if its caller disconnects.
    """

    async def register(self, order: Registration) -> RegistrationResult:
        """Fetch, unpack and load a handler.

        Raises:
            NoModel, NoDownload, BadArchive, Conflict: it is not available, or already registered.
            WorkersFailed: its workers do not start; it was unregistered again.
        """
        ...

    async def unregister(self, model: str, version: str = "") -> None:
        """Unregister a version, or the default one if it is the only one.

        Raises:
            NoModel, NoModelVersion: there is no such handler.
            StillDefault: it is the default version, and there are others.
        """
        ...

    async def scale(
        self, model: str, version: str, least: int, most: int | None, *, waits: bool
    ) -> tuple[Scaled, int]:
        """Set the number of workers; return the outcome and the number of running workers.

        Args:
            most: None = the same as ``least``.

        Raises:
            NoModel, NoModelVersion: there is no such handler.
            InvalidInput: ``most`` is below ``least``.
        """
        ...

    def set_default(self, model: str, version: str) -> None:
        """Set the version for requests without one. Raises NoModel or NoModelVersion."""
        ...


class Handlers(HandlerChanges, Protocol):
    """Registration, scaling and description of handlers."""

    def models(self) -> tuple[ModelListing, ...]:
        """Return all handlers, sorted by name."""
        ...

    def describe(self, model: str, version: str = "") -> tuple[HandlerStatus, ...]:
        """Describe the default version, a given one, or ``all``. Raises NoModel or NoModelVersion."""
        ...

    async def metadata(self, model: str, version: str) -> Metadata:
        """Return the handler's own metadata. Raises NotReady if no worker runs."""
        ...

    def is_healthy(self) -> bool:
        """Return whether every model has enough workers, or lacks them for a tolerated time only."""
        ...


class Workflows(Protocol):
    """Graphs of handlers (dialects/torchserve/workflows.py)."""

    async def register(self, order: Registration) -> str:
        """Register a workflow with the handlers of its nodes; return its name.

        Raises:
            NoWorkflow, BadArchive, BadGraph, Conflict: it is not available, or already registered.
            WorkflowFailed: a node cannot be registered; the others were unregistered again.
        """
        ...

    async def unregister(self, name: str) -> None:
        """Unregister a workflow and the handlers of its nodes. Raises NoWorkflow."""
        ...

    def statuses(self) -> tuple[WorkflowStatus, ...]:
        """Return all workflows, sorted by name."""
        ...

    async def run(self, name: str, form: Form, call: Call) -> HandlerReply:
        """Return the answer of the last node; of several last nodes, a JSON object of their answers.

        Raises:
            NoWorkflow: there is no such workflow.
            HandlerFailed: a node failed after all its retries.
        """
        ...
