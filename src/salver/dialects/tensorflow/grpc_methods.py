"""gRPC methods of TensorFlow Serving: ``PredictionService`` and ``ModelService`` (TF-G1, TF-G2)."""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from salver.dialects.tensorflow.faults import tfs_status
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.versions import number_of_version, server_version
from salver.encoding.bodies import GrpcStatus, Message
from salver.kernel.supervise import Supervisor
from salver.lazy import lazy_imports
from salver.transport.effects import changes, reads
from salver.transport.grpc_table import GrpcTable, Reply
from salver.transport.ports import Control, Exposition, InferDoor
from salver.words.errors import NotFound, NotReady, NotResident, TooLarge
from salver.words.messages import Call, ModelId, Signature

with lazy_imports():
    from salver.dialects.tensorflow import grpc_codec as wire
    from salver.dialects.tensorflow import heads
    from salver.dialects.tensorflow import metadata as tfs_metadata
    from salver.dialects.tensorflow.grpc_codec import ModelSpec
    from salver.dialects.tensorflow.predict_codec import Predict, PredictMessage, PredictMessages
    from salver.dialects.tensorflow.tf_schema import build


_LOG = logging.getLogger("salver.grpc")
SERVICES: Final = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
#: Further names of the services in health checks (TF-G13).
SHORT_NAMES: Final = ("PredictionService", "ModelService")
_PREDICTION: Final = f"/{SERVICES[0]}/"
_MODEL: Final = f"/{SERVICES[1]}/"
#: Methods that keep their deadlines themselves.
_INFERRING: Final = frozenset(
    _PREDICTION + name for name in ("Predict", "Classify", "Regress", "MultiInference")
)

#: Bytes of a message of unknown form that are copied in a millisecond.
_MOST_COPIED: Final = 1 << 20
#: Bytes of a list of models: thousands of them, which are read in some milliseconds.
_MOST_LIST: Final = 1 << 19

#: Requests and responses whose names do not follow from the method's.
_TYPES: Final = {
    f"{_PREDICTION}Classify": ("ClassificationRequest", "ClassificationResponse"),
    f"{_PREDICTION}Regress": ("RegressionRequest", "RegressionResponse"),
    f"{_MODEL}HandleReloadConfigRequest": ("ReloadConfigRequest", "ReloadConfigResponse"),
}


class TensorFlowServingMethods:
    """Methods of one server.

    Args:
        reload: Serves the models in a serialised ModelServerConfig, and no others; returns when they can
            answer, or raises the error of one that cannot be loaded.
        rules: Options of the operator.
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
        self._reloads = Supervisor(_LOG, "the list of models in a request was not loaded")

    @functools.cached_property
    def _messages(self) -> PredictMessages:
        return PredictMessages()

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
            names={f"{_PREDICTION}GetModelMetadata": (1, 1), f"{_MODEL}GetModelStatus": (1, 1)},
            inferring=_INFERRING,
            services=(*SERVICES, *SHORT_NAMES),
            messages=build,
            types=_TYPES,
        )

    @reads
    async def _predict(self, message: bytes, call: Call) -> Reply:
        call.api = "Predict"
        body: PredictMessage | Message
        if call.is_large and self._messages.is_slow(message):
            spec, body = wire.spec_of(wire.heading("PredictRequest", message)), Message(message)
        elif len(message) > _MOST_COPIED and not self._messages.knows(message):
            spec, body = await asyncio.to_thread(self._messages.read, message)
        else:
            call.is_large = False
            spec, body = self._messages.read(message)
        spec, version = self._locate(spec, call)
        codec = Predict(spec, self._rules, self._messages)
        # A split may depend on the label, so the door gets it rather than the version.
        reply: Reply = await self._door.infer(codec, body, spec.name, spec.label or version, call)
        return reply

    @reads
    async def _classify(self, message: bytes, call: Call) -> Reply:
        call.api = "Classify"
        return await self._head(heads.CLASSIFY, message, call)

    @reads
    async def _regress(self, message: bytes, call: Call) -> Reply:
        call.api = "Regress"
        return await self._head(heads.REGRESS, message, call)

    async def _head(self, method: str, message: bytes, call: Call) -> Reply:
        parsed, body = _parse(wire.KINDS[method], message, call)
        spec, version = self._locate(wire.spec_of(parsed), call)
        codec = wire.HeadCodec(spec, self._rules, method)
        reply: Reply = await self._door.infer(codec, body, spec.name, spec.label or version, call)
        return reply

    @reads
    async def _multi_inference(self, message: bytes, call: Call) -> Reply:
        call.api = "MultiInference"
        parsed, body = _parse("MultiInferenceRequest", message, call)
        tasks = wire.tasks_of(parsed)
        first, version = self._locate(tasks[0][0], call)
        _, signature = self._find(tasks[0][0], call)
        wire.check_tasks(tasks, signature, self._rules)
        codecs = [wire.TaskCodec(spec, self._rules, method) for spec, method in tasks]
        replies = await asyncio.gather(
            *(self._door.infer(codec, body, first.name, first.label or version, call) for codec in codecs)
        )
        fault = next((reply for reply in replies if isinstance(reply, GrpcStatus)), None)
        return fault or wire.encode_results(replies)

    @reads
    async def _metadata(self, message: bytes, call: Call) -> Reply:
        id, signature = self._find(wire.decode_metadata_request(message), call)
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
        before = self._sums(names)
        await self._reloads.finish("reload", self._reload_config(config))
        after = self._sums(names)
        return wire.encode_reload({name: after[name] - before.get(name, 0) for name in after})

    def _sums(self, names: Sequence[str]) -> dict[str, int]:
        """Return the sums of those of these metrics that are on the page."""
        sums: dict[str, int] = {}
        if not names:
            return sums
        # Names in requests have slashes, those on the page have colons.
        wanted = {name.replace("/", ":").encode(): name for name in names}
        for line in self._exposition.metrics("text/plain")[0].splitlines():
            name = wanted.get(line.partition(b" ")[0].partition(b"{")[0])
            if name is not None:
                sums[name] = sums.get(name, 0) + int(float(line.rpartition(b" ")[2]))
        return sums

    def _find(self, spec: ModelSpec, call: Call) -> tuple[ModelId, Signature]:
        """Return the version that answers now, and its signature."""
        spec, version = self._locate(spec, call)
        try:
            return self._door.signature(spec.name, version)
        except NotResident:
            raise  # the transport has it loaded, and asks again
        except (NotFound, NotReady) as error:
            raise wire.not_found(spec, error) from None

    def _locate(self, spec: ModelSpec, call: Call) -> tuple[ModelSpec, str]:
        """Return the spec with its label's version, and the server's name of the version; empty = newest.

        Raises:
            InvalidInput: There is no such label.
            NotFound: The version is negative.
            Forbidden: The caller may not use the model, whether there is one or not.
        """
        if call.grant is not None:
            call.grant.check(spec.name)
        if spec.version is not None and spec.version < 0 and not spec.label:
            raise wire.not_found(spec)
        number = "" if spec.version is None else str(spec.version)
        version = server_version(self._door, self._control, spec.name, number, spec.label)
        if spec.label:
            spec = msgspec.structs.replace(spec, version=number_of_version(version))
        return spec, version


def _parse(kind: str, message: bytes, call: Call) -> tuple[Any, Any]:
    """Return a parsed request and its Input; of a large one, the Input is left to the codec."""
    if call.is_large:
        return wire.heading(kind, message), Message(message)
    parsed = wire.parse(kind, message)
    return parsed, parsed.input
