"""Engines of the home process, as a front's data plane sees them.

The front decodes requests and encodes answers; tensors go to the home process, where the requests of all
processes share batches, limits and queue.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from salver.features.fronts.copies import Granted
from salver.features.fronts.messages import Ask, Leave, Outputs, Refusal
from salver.features.fronts.tensors import received, sent, unpickled
from salver.kernel.engine.admission import Admission
from salver.kernel.engine.delivery import ReplyCallback
from salver.kernel.engine.placement import Placement
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.errors import Internal, LoadFailed
from salver.words.messages import ANYBODY, InferRequest, InferResponse, Insight, Signature, Standing
from salver.words.tensor import DataType

#: Backend of the manifests that a front gets for such a version.
BACKEND = "home"


class RemoteRequests:
    """Decoded requests of a front that engines of the home process answer.

    Args:
        send: Sends a message to the home process.
    """

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self._send = send
        self._last = 0
        self._open: dict[int, tuple[InferRequest, str, ReplyCallback]] = {}

    def __repr__(self) -> str:
        return f"<RemoteRequests, {len(self._open)} open>"

    def begin(
        self,
        engine: int,
        version: str,
        request: InferRequest,
        deadline: float | None,
        told: ReplyCallback,
        standing: Standing,
    ) -> Callable[[], None]:
        """Send a request; return a function that cancels it."""
        self._last += 1
        number = self._last
        ask = Ask(
            number,
            engine,
            request.id,
            sent(request.inputs),
            tuple([output.name for output in request.outputs]),
            dict(request.parameters) or None,
            deadline,
            None if standing is ANYBODY else standing,
            request.came,
        )
        self._open[number] = request, version, told
        try:
            self._send(ask)
        except BaseException:
            del self._open[number]
            raise
        return partial(self._leave, number)

    def _leave(self, number: int) -> None:
        if self._open.pop(number, None) is not None:
            self._send(Leave(number))

    def hear(self, message: Outputs | Refusal) -> None:
        """Take an answer; its caller may be gone."""
        found = self._open.pop(message.number, None)
        if found is None:
            return
        request, version, told = found
        if isinstance(message, Refusal):
            told(unpickled(message.error), None)
            return
        outputs, parameters = received(message.outputs), message.parameters or {}
        told(InferResponse(request.model, version, outputs, request.id, parameters, message.timing), None)


class RemoteEngine:
    """Engine of the home process (:class:`~salver.kernel.serving.servable.DeclaringEngine`)."""

    queued = running = 0

    def __init__(self, granted: Granted, requests: RemoteRequests) -> None:
        self._id = granted.manifest.id
        self._engine = granted.engine
        self._requests = requests
        self.signature: Signature = granted.signature
        self.capabilities = Capabilities(post=self.post, owns_timeout=granted.owns_timeout)

    def __repr__(self) -> str:
        return f"<RemoteEngine {self._id}>"

    def insight(self) -> Insight:
        """Return nothing; the home process knows the load."""
        return Insight()

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """See :class:`~salver.kernel.serving.capabilities.Post`."""
        if any(tensor.datatype is DataType.BYTES for tensor in request.inputs):
            Admission(self._id.name, self.signature).bind(request)
            raise Internal(f"model '{self._id.name}' has taken strings, which its signature has not")
        return self._requests.begin(self._engine, self._id.version, request, deadline, told, standing)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """See :meth:`~salver.kernel.engine.engine.Engine.infer`."""
        answer: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()

        def told(said: InferResponse | Exception, others: Any) -> None:
            if answer.done():
                return
            if isinstance(said, InferResponse):
                answer.set_result(said)
            else:
                answer.set_exception(said)

        leave = self.post(request, deadline, told, standing)
        try:
            return await answer
        finally:
            leave()  # without effect once it is answered

    async def close(self) -> None:
        """Do nothing; what is still running is answered."""


class RemoteLoader:
    """Loader of the versions that the home process runs."""

    def __init__(self, requests: RemoteRequests) -> None:
        self._requests = requests
        self._granted: dict[str, Granted] = {}

    def take(self, granted: Sequence[Granted]) -> tuple[Manifest, ...]:
        """Return what the front's lifecycle is to load for these versions."""
        manifests = []
        self._granted.clear()
        for each in granted:
            manifest = each.manifest
            if each.engine:
                # Another engine is another copy, even of the same files.
                found = f"home:{each.engine}"
                manifest = replace(manifest, backend=BACKEND, fingerprint=found, body="")
                self._granted[found] = each
            manifests.append(manifest)
        return tuple(manifests)

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`."""
        granted = self._granted.get(manifest.fingerprint)
        if granted is None:
            raise LoadFailed(f"the home process runs {manifest.id} no more")
        return Servable(manifest, RemoteEngine(granted, self._requests), Placement(BACKEND, 1, 1))
