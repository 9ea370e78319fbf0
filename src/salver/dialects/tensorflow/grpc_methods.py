"""What the gRPC methods of TensorFlow Serving do: ``PredictionService`` and ``ModelService`` (TF-G1, TF-G2).

``grpc_codec.py`` reads and writes their messages.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from salver.dialects.tensorflow import grpc_codec as wire
from salver.dialects.tensorflow import metadata as tfs_metadata
from salver.dialects.tensorflow.faults import tfs_status
from salver.dialects.tensorflow.heads import CLASSIFY, REGRESS
from salver.dialects.tensorflow.predict_codec import Predict, PredictMessage, PredictMessages
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build
from salver.encoding.bodies import GrpcStatus, Message
from salver.kernel.supervise import Supervisor
from salver.transport.effects import changes, reads
from salver.transport.grpc_table import GrpcTable, Reply
from salver.transport.ports import Control, Exposition, InferDoor
from salver.words.errors import NotFound, NotReady, TooLarge
from salver.words.messages import Call, ModelId, Signature

_LOG = logging.getLogger("salver.grpc")
SERVICES: Final = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
#: What health calls them, too (TF-G13).
SHORT_NAMES: Final = ("PredictionService", "ModelService")
_PREDICTION: Final = f"/{SERVICES[0]}/"
_MODEL: Final = f"/{SERVICES[1]}/"
#: Those that keep their deadlines themselves.
_INFERRING: Final = frozenset(
    _PREDICTION + name for name in ("Predict", "Classify", "Regress", "MultiInference")
)

#: Bytes of a list of models: thousands of them, which are read in some milliseconds.
_MOST_LIST: Final = 1 << 19

#: Requests and responses whose names do not follow from the method's.
_TYPES: Final = {
    f"{_PREDICTION}Classify": ("ClassificationRequest", "ClassificationResponse"),
    f"{_PREDICTION}Regress": ("RegressionRequest", "RegressionResponse"),
    f"{_MODEL}HandleReloadConfigRequest": ("ReloadConfigRequest", "ReloadConfigResponse"),
}


class TensorFlowServingMethods:
    """The methods of one server.

    Args:
        reload: Serves the models that a serialised ModelServerConfig lists, and no others; returns when they
            can answer, or raises what kept one from loading.
        rules: Options that the operator set.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        exposition: Exposition,
        reload: Callable[[bytes], Coroutine[Any, Any, None]],
        rules: TfsRules,
    ) -> None:
        self._door = door
        self._control = control
        self._exposition = exposition
        self._reload_config = reload
        self._rules = rules
        self._messages = PredictMessages()
        self._reloads = Supervisor(_LOG, "a request brought a list of models")

    def table(self) -> GrpcTable:
        """Return the methods."""
        methods = {
            f"{_PREDICTION}Predict": self._predict,
            f"{_PREDICTION}Classify": self._classify,
            f"{_PREDICTION}Regress": self._regress,
            f"{_PREDICTION}MultiInference": self._multi_inference,
            f"{_PREDICTION}GetModelMetadata": self._metadata,
            f"{_MODEL}GetModelStatus": self._status,
            f"{_MODEL}HandleReloadConfigRequest": self._reload,
        }
        return GrpcTable(
            "tfs-grpc",
            tfs_status,
            methods,
            inferring=_INFERRING,
            services=(*SERVICES, *SHORT_NAMES),
            messages=build,
            types=_TYPES,
        )

    @reads
    async def _predict(self, message: bytes, call: Call) -> Reply:
        call.api = "Predict"
        asked: PredictMessage | Message
        if call.is_large and self._messages.is_slow(message):
            spec, asked = wire.spec_of(wire.heading("PredictRequest", message)), Message(message)
        else:
            call.is_large = False
            spec, asked = self._messages.read(message)
        spec, version = self._located(spec)
        codec = Predict(spec, self._rules, self._messages)
        # The door knows by a label who is split.
        reply: Reply = await self._door.infer(codec, asked, spec.name, spec.label or version, call)
        return reply

    @reads
    async def _classify(self, message: bytes, call: Call) -> Reply:
        call.api = "Classify"
        return await self._head(CLASSIFY, message, call)

    @reads
    async def _regress(self, message: bytes, call: Call) -> Reply:
        call.api = "Regress"
        return await self._head(REGRESS, message, call)

    async def _head(self, method: str, message: bytes, call: Call) -> Reply:
        kind = wire.KINDS[method]
        parsed = wire.heading(kind, message) if call.is_large else wire.parse(kind, message)
        spec, version = self._located(wire.spec_of(parsed))
        body = Message(message) if call.is_large else parsed.input
        codec = wire.Head(spec, self._rules, method)
        reply: Reply = await self._door.infer(codec, body, spec.name, spec.label or version, call)
        return reply

    @reads
    async def _multi_inference(self, message: bytes, call: Call) -> Reply:
        call.api = "MultiInference"
        kind = "MultiInferenceRequest"
        parsed = wire.heading(kind, message) if call.is_large else wire.parse(kind, message)
        body = Message(message) if call.is_large else parsed.input
        tasks = wire.tasks_of(parsed)
        asked, version = self._located(tasks[0][0])
        named = asked.label or version
        _, signature = self._found(tasks[0][0])
        wire.check_tasks(tasks, signature, self._rules)
        replies = await asyncio.gather(
            *(
                self._door.infer(wire.Task(spec, self._rules, method), body, asked.name, named, call)
                for spec, method in tasks
            )
        )
        bad = next((reply for reply in replies if isinstance(reply, GrpcStatus)), None)
        return bad or wire.encode_results(replies)

    @reads
    async def _metadata(self, message: bytes, call: Call) -> Reply:
        id, signature = self._found(wire.decode_metadata_request(message))
        return tfs_metadata.metadata(id, signature).SerializeToString()  # type: ignore[no-any-return]

    @reads
    async def _status(self, message: bytes, call: Call) -> Reply:
        spec = wire.decode_status_request(message)
        found = tfs_metadata.status(spec.name, spec.version, self._control.versions(spec.name))
        return found.SerializeToString()  # type: ignore[no-any-return]

    @changes
    async def _reload(self, message: bytes, call: Call) -> Reply:
        if len(message) > _MOST_LIST:
            raise TooLarge(f"the list of models has {len(message)} bytes; at most {_MOST_LIST} are taken")
        config, names = wire.decode_reload(message)
        before = self._counted(names)
        await self._reloads.finish("reload", self._reload_config(config))
        after = self._counted(names)
        return wire.encode_reload({name: after[name] - before.get(name, 0) for name in after})

    def _counted(self, names: Sequence[str]) -> dict[str, int]:
        """The sums of these metrics, as far as there are any of that name on the page."""
        wanted = {
            name.replace("/", ":").encode(): name for name in names
        }  # as TensorFlow Serving spells them
        sums: dict[str, int] = {}
        for line in self._exposition.metrics("text/plain")[0].splitlines() if wanted else ():
            name = wanted.get(line.partition(b" ")[0].partition(b"{")[0])
            if name is not None:
                sums[name] = sums.get(name, 0) + int(float(line.rpartition(b" ")[2]))
        return sums

    def _found(self, spec: wire.ModelSpec) -> tuple[ModelId, Signature]:
        """The version that answers now, and what it expects and gives."""
        spec, version = self._located(spec)
        try:
            return self._door.signature(spec.name, version)
        except (NotFound, NotReady) as error:
            raise wire.not_found(spec, error) from None

    def _located(self, spec: wire.ModelSpec) -> tuple[wire.ModelSpec, str]:
        """With the version that a label means, and the version as the server spells it; empty for the newest.

        Raises:
            InvalidInput: there is no such label.
            NotFound: the version is below 0, as none is.
        """
        if spec.label:
            version = self._control.version_of_label(spec.name, spec.label)
            return msgspec.structs.replace(spec, version=tfs_metadata.number_of_version(version)), version
        if spec.version is None:
            return spec, ""
        if spec.version < 0:
            raise wire.not_found(spec)
        version = str(spec.version)
        try:
            self._door.signature(spec.name, version)
        except NotFound:  # its folder may have zeros in front
            for status in self._control.versions(spec.name):
                if tfs_metadata.number_of_version(status.id.version) == spec.version:
                    return spec, status.id.version
        except NotReady:
            pass
        return spec, version
