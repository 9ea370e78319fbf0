"""HTTP operations of pipelines."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from salver.encoding.bodies import HttpBody, HttpReply, Message, media_type
from salver.encoding.multipart import MULTIPART
from salver.features.pipelines import is_raw, signature_of
from salver.features.pipelines.bodies import file_of_form
from salver.features.pipelines.columnar import TYPES
from salver.features.pipelines.forms import PipelineJson, no_path
from salver.features.pipelines.peers import hub
from salver.features.pipelines.peers.codec import PeerCodec
from salver.features.pipelines.table_codec import TableCodec
from salver.features.pipelines.tables import DELIMITED
from salver.transport.faults import http_fault
from salver.transport.ports import InferDoor
from salver.transport.routes import Endpoint, HttpTable, Operation, Route, Tell
from salver.words.messages import Call

#: Bytes of delimited text from which another process reads it.
_LARGE: Final = 1 << 16


class PipelineOperations:
    """The operations of one server; ``rows`` are their verbs and paths."""

    def __init__(self, door: InferDoor, rows: Sequence[Operation]) -> None:
        self._door = door
        self._rows = tuple(rows)
        self._codec = PipelineJson()
        self._hub = PeerCodec(hub.read, http_fault)

    def table(self) -> HttpTable:
        """Return the operations."""
        endpoint = Endpoint(self._infer, is_large=True, is_compressible=True, post=self._post)
        return HttpTable(self._rows, {"pipeline": endpoint}, http_fault)

    def _infer(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        # Known only here where callers need keys; raised, it has the form of the dialect that owns the path.
        signature = signature_of(self._door, route.model, route.version)
        if not is_raw(signature):
            raise no_path(route.model, route.version)
        if signature is not None and signature.table is not None:
            return self.infer_table(route, http, call)
        return self._door.infer(self._codec_of(http), http, route.model, route.version, call)

    def _post(self, route: Route, http: HttpBody, call: Call, tell: Tell) -> Callable[[], None] | None:
        signature = signature_of(self._door, route.model, route.version)
        if signature is None or signature.table is not None or not is_raw(signature):
            return None
        return self._door.post(self._codec_of(http), http, route.model, route.version, call, tell)

    def _codec_of(self, http: HttpBody) -> PipelineJson:
        return self._hub if hub.is_meant(http) else self._codec

    def infer_table(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        """Answer a request to a model of tables."""
        kind, sent = media_type(http.headers), bytes(http.content)
        if kind == MULTIPART.encode():
            http = file_of_form(http)
            kind, sent = media_type(http.headers), http.body
        form = TYPES.get(kind, "")
        if kind in DELIMITED and len(sent) > _LARGE:
            form = kind.decode()
        codec = TableCodec(route.model, route.version, form)
        if not form:
            return self._door.infer(codec, http, route.model, route.version, call)
        call.is_large = True  # a small body may hold a large table
        return self._door.infer(codec, Message(sent), route.model, route.version, call)
