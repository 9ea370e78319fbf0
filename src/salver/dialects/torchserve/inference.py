"""What do TorchServe's inference routes do, besides asking a model?

Health, descriptions, and whom a request means that does not name its model (TS-R1, TS-R2, TS-R8, TS-R11).
Predictions are ``ts_front.py``'s, who writes their pieces.
"""

from collections.abc import Mapping

from salver.dialects.torchserve.faults import no_model
from salver.dialects.torchserve.flags import VERSION
from salver.dialects.torchserve.json_layout import TorchServeReply, replied, status_of
from salver.dialects.torchserve.openapi import of_model
from salver.dialects.torchserve.operation_calls import Method, Request, form_of
from salver.transport.effects import reads
from salver.transport.ports import Handlers
from salver.words.errors import InvalidInput

_NO_VERSIONS = {"error": "Model versioning is not yet supported."}


class InferenceOperations:
    """The operations, by their names.

    Args:
        handlers: The models.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def http(self) -> Mapping[str, Method]:
        """Operation -> what it does."""
        return {
            "ping": self._ping,
            "oip_server": self._oip_server,
            "oip_live": self._oip_live,
            "oip_ready": self._oip_ready,
            "oip_version": self._oip_version,
        }

    def description(self, model: str, version: str) -> TorchServeReply:
        """How a model is asked. Raises NoModel or NoModelVersion."""
        self._handlers.describe(model, version)
        return replied(of_model(model))

    async def meant(self, request: Request) -> str:
        """The model that a request means which may name it in its query or body, or not at all.

        Raises:
            InvalidInput, NoModel: it does not, and there is not just one that was there at the start.
        """
        name = request.fields.get("model_name")
        if name:
            return name
        started = [model.name for model in self._handlers.models() if model.is_loaded_at_startup]
        if len(started) == 1:
            return started[0]
        for part in (await form_of(request, {})).parts:
            if part.name == "model_name":
                return part.data.tobytes().decode("utf-8", "replace")
        if name is not None:
            raise no_model(name)
        raise InvalidInput("Parameter model_name is required.")

    @reads
    async def _ping(self, request: Request) -> TorchServeReply:
        healthy = self._handlers.is_healthy()
        return status_of("Healthy") if healthy else status_of("Unhealthy", 500)

    @reads
    async def _oip_server(self, request: Request) -> TorchServeReply:
        """Its name for the extensions is misspelled; its clients know no other (TS-R11)."""
        return replied({"name": "Torchserve", "version": VERSION, "extenstion": ["kserve", "kubeflow"]})

    @reads
    async def _oip_live(self, request: Request) -> TorchServeReply:
        return replied({"live": True})

    @reads
    async def _oip_ready(self, request: Request) -> TorchServeReply:
        is_ready = self._handlers.is_healthy()
        return replied({"ready": is_ready}, 200 if is_ready else 500)

    @reads
    async def _oip_version(self, request: Request) -> TorchServeReply:
        return replied(_NO_VERSIONS, 501)
