"""HTTP operations of Triton's extensions."""

import functools
from collections.abc import Awaitable, Callable

import msgspec

from salver.dialects.oip.faults import http_fault
from salver.dialects.oip.regions import RegionRegistry
from salver.dialects.triton.routes import OPERATIONS
from salver.dialects.triton.shared_memory_operations import SharedMemoryOperations
from salver.dialects.triton.statistics import check_counted
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.lazy import lazy_imports
from salver.transport import orca
from salver.transport.calls import RequestContext
from salver.transport.orca import TokenRoom
from salver.transport.ports import Control, InferDoor
from salver.transport.routes import Endpoint, Headers, HttpTable, Route, Write
from salver.words.messages import Call

with lazy_imports():
    from salver.dialects.triton import config_view, repository_calls, settings
    from salver.dialects.triton.generate import GenerateCodec, event
    from salver.dialects.triton.ports import TritonMonitor


class TritonOperations:
    """Operations of one server.

    Args:
        model_config: Returns a version's ModelConfig, serialised; raises NotFound or NotReady.
        regions: Memory that callers share with the server.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        monitor: TritonMonitor,
        model_config: Callable[[str, str], bytes],
        context: RequestContext,
        regions: RegionRegistry,
    ) -> None:
        self._door = door
        self._control = control
        self._model_config = model_config
        self._monitor = monitor
        self._decoders = context.decoders
        self._regions = regions

    @functools.cached_property
    def _codec(self) -> GenerateCodec:
        return GenerateCodec()

    def table(self, token_room: Callable[[str, str], TokenRoom | None]) -> HttpTable:
        """Return the operations.

        Args:
            token_room: Returns the room left in a version that answers token by token; None for others.
        """

        def report(route: Route, form: bytes) -> Headers:
            room = token_room(route.model, route.version)
            return orca.load_report(form, room) if room else ()

        generate, stream = self._generate, self._generate_stream
        endpoints = {
            "generate": Endpoint(generate, is_large=True, refuses_compressed=True, load_report=report),
            "generate_stream": Endpoint(
                stream=stream, is_large=True, refuses_compressed=True, load_report=report
            ),
            "config": Endpoint(self._config),
            "statistics": Endpoint(self._statistics),
            "log_settings": Endpoint(self._log_settings),
            "update_log_settings": Endpoint(self._update_log_settings),
            "trace_setting": Endpoint(self._trace_setting),
            "update_trace_setting": Endpoint(self._update_trace_setting),
            "index": Endpoint(self._index, filters=True),
            "index_named": Endpoint(self._index, filters=True),
            "load": Endpoint(self._load, is_large=True),
            "unload": Endpoint(self._unload),
            "load_named": Endpoint(self._refuse_named),
            "unload_named": Endpoint(self._refuse_named),
            **SharedMemoryOperations(self._regions).http(),
        }
        return HttpTable(OPERATIONS, endpoints, http_fault)

    def _generate(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        call.protocol = self._codec.protocol
        return self._door.stream(self._codec, http, route.model, route.version, call)

    async def _generate_stream(
        self, route: Route, http: HttpBody, call: Call, write: Write
    ) -> HttpReply | None:
        call.protocol = self._codec.protocol

        def forward(reply: HttpReply) -> Awaitable[None]:
            return write(HttpReply(reply.status, event(reply)))

        reply: HttpReply | None = await self._door.stream(
            self._codec, http, route.model, route.version, call, forward
        )
        return reply

    async def _config(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(config_view.as_json(self._model_config(route.model, route.version)))

    async def _statistics(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if route.model:
            check_counted(self._door, route.model, route.version)
        return _json(self._monitor.statistics(route.model, route.version))

    async def _log_settings(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(msgspec.structs.asdict(self._monitor.log_settings({})))

    async def _update_log_settings(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        change = settings.parse_log(http.body)
        return _json(msgspec.structs.asdict(self._monitor.log_settings(change)))

    async def _trace_setting(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(settings.trace_json(self._monitor.trace_setting(route.model, {})))

    async def _update_trace_setting(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        change = settings.parse_trace(http.body)
        return _json(settings.trace_json(self._monitor.trace_setting(route.model, change)))

    async def _index(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        only_ready = repository_calls.parse_index(http.body)
        statuses = [status for status in self._control.statuses() if call.may_see(status.id.name)]
        digests = {(status.id.name, status.id.version): status.digest for status in statuses}
        rows = repository_calls.index(statuses, only_ready)
        for row in rows:
            if digest := digests[row["name"], row["version"]]:
                row["digest"] = digest  # a key that Triton does not have, and its clients leave alone
        return _json(rows)

    async def _load(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if call.is_large and self._decoders is not None:
            order = await self._decoders.call(repository_calls.parse_load, http.body)
        else:
            order = repository_calls.parse_load(http.body)
        await self._control.load(route.model, order)
        return HttpReply(200, b"")

    async def _unload(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        dependents = repository_calls.parse_unload(http.body)
        await self._control.unload(route.model, dependents=dependents)
        return HttpReply(200, b"")

    async def _refuse_named(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        raise repository_calls.no_repository()


def _json(value: object) -> HttpReply:
    return HttpReply(200, dumps(value))
