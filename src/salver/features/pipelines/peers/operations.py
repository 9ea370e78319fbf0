"""HTTP operations at the paths of peers, for a model that the path names or the only one that suits it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.features.pipelines.names import OF_FILES, SUPPORTED
from salver.features.pipelines.operations import PipelineOperations
from salver.features.pipelines.peers import hub, tei, toolkit
from salver.features.pipelines.peers.choosing import FormModels, check_task, choose
from salver.features.pipelines.peers.codec import PeerCodec
from salver.features.pipelines.peers.tokenizing import DECODE, TOKENIZE, Directories
from salver.kernel.serving.ports import Lessor
from salver.kernel.serving.servable import Servable
from salver.transport.faults import http_fault
from salver.transport.ports import InferDoor, StatusView
from salver.transport.routes import Endpoint, HttpTable, Operation, Route
from salver.words.errors import NoRoute, NotResident, SalverError
from salver.words.messages import Call, Signature

_VECTORS: Final = ("sentence-embeddings",)
_CLASSES: Final = ("text-classification",)
_RANKS: Final = ("text-ranking",)
_TEXTS: Final = tuple(task for task in SUPPORTED if task not in OF_FILES)
#: Tasks that a path of Text Embeddings Inference is for.
_TASKS: Final = {
    "/embed": _VECTORS,
    "/embed_all": ("feature-extraction",),
    "/similarity": _VECTORS,
    "/rerank": _RANKS,
    "/tokenize": _TEXTS,
    "/decode": _TEXTS,
    "/info": (*_VECTORS, *_CLASSES, *_RANKS),
}


class PeerOperations:
    """The operations of one server.

    Args:
        lessor: Leases loaded versions.
        rows: Verbs and paths of the operations.
        version: Version of Salver.
    """

    def __init__(
        self,
        door: InferDoor,
        statuses: StatusView,
        lessor: Lessor[Servable],
        rows: Sequence[Operation],
        version: str,
    ) -> None:
        self._door = door
        self._lessor = lessor
        self._rows = tuple(rows)
        self._models = FormModels(door, statuses)
        self._directories = Directories()
        self._version = version
        self._plain = PipelineOperations(door, ())
        self._root = PeerCodec(toolkit.read_at_root, http_fault)
        self._hub = PeerCodec(hub.read, http_fault)
        self._predict = PeerCodec(toolkit.read_at_predict, http_fault)
        self._tensors = OpenInferenceHttp()
        self._of_tei = {path: PeerCodec(read, tei.tei_fault) for path, read in tei.READERS.items()}

    def table(self) -> HttpTable:
        """Return the operations."""

        def large(run: Callable[[Route, HttpBody, Call], Awaitable[HttpReply]]) -> Endpoint:
            return Endpoint(run, is_large=True, is_compressible=True)

        endpoints = {
            "peer_root": large(self._answer_root),
            "peer_predict": large(self._answer_predict),
            "peer_invocations": large(self._answer_invocations),
            **{
                f"tei{path.replace('/', '_')}": large(self._answer_tei)
                for path in tei.READERS
                if path != "/predict"
            },
            "tei_tokenize": Endpoint(self._tokenize),
            "tei_decode": Endpoint(self._decode),
            "tei_info": Endpoint(self._info),
        }
        return HttpTable(self._rows, endpoints, http_fault)

    def _find(self, route: Route, call: Call, tasks: Sequence[str] = ()) -> tuple[str, Signature]:
        """Return the model of a request.

        Raises:
            SalverError: the path names none, and none or several suit it; or its model does not.
        """
        path = _path_of(route)
        if not route.model:
            if call.grant is not None and not any(map(call.may_see, self._models.names())):
                call.grant.check("")  # the key is for no model of the server
            models = {name: one for name, one in self._models.ready().items() if call.may_see(name)}
            name = choose(models, path, tasks)
            return name, models[name]
        signature = self._models.named(route.model)
        check_task(route.model, signature, path, tasks)
        return route.model, signature

    async def _answer(self, codec: Any, route: Route, http: HttpBody, call: Call) -> HttpReply:
        name, signature = self._find(route, call)
        http.model = name
        if signature.table is not None:
            return await self._plain.infer_table(Route(route.operation, name), http, call)
        reply: HttpReply = await self._door.infer(codec, http, name, "", call)
        return reply

    async def _answer_root(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return await self._answer(self._hub if hub.is_meant(http) else self._root, route, http, call)

    async def _answer_predict(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return await self._answer(self._predict, route, http, call)

    async def _answer_invocations(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if toolkit.is_of_tensors(http):
            reply: HttpReply = await self._door.infer(self._tensors, http, route.model, "", call)
            return reply
        return await self._answer(toolkit.codec_of(http), route, http, call)

    async def _answer_tei(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        path = _path_of(route)
        try:
            name, _ = self._find(route, call, _TASKS[path])
        except (NoRoute, NotResident):
            raise
        except SalverError as error:
            return tei.tei_fault(error)
        http.model = name
        reply: HttpReply = await self._door.infer(self._of_tei[path], http, name, "", call)
        return reply

    async def _tokenize(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return await self._of_directory(
            route,
            call,
            lambda one: self._directories.tokenize(one, tei.read_record(http.content, TOKENIZE)),
        )

    async def _decode(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return await self._of_directory(
            route,
            call,
            lambda one: self._directories.decode(one, tei.read_record(http.content, DECODE)),
        )

    async def _info(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        def work(servable: Servable) -> Any:
            return self._directories.info(servable, self._version)

        return await self._of_directory(route, call, work)

    async def _of_directory(self, route: Route, call: Call, work: Callable[[Servable], Any]) -> HttpReply:
        """Answer from the files of a version, on a thread; ``work`` takes its servable."""
        try:
            name, _ = self._find(route, call, _TASKS.get(_path_of(route), ()))
            if call.grant is not None:
                call.grant.check(name)
            lease = self._lessor.acquire(name)
            try:
                found = await asyncio.to_thread(work, lease.servable)
            finally:
                lease.release()
        except (NoRoute, NotResident):
            raise
        except SalverError as error:
            return tei.tei_fault(error)
        return HttpReply(200, dumps(found))


def _path_of(route: Route) -> str:
    """Return the path of a peer that a route stands for."""
    kind, _, name = route.operation.partition("_")
    return "/" if (kind, name) == ("peer", "root") else f"/{name}"
