"""Tables of operations whose modules are imported at the first call, on a thread."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from salver.lazy import has_names, lazily, lazy_imports, load_names
from salver.transport.doors import Receive
from salver.transport.routes import Endpoint, HttpTable
from salver.words.messages import Call

with lazy_imports():
    from salver.transport.grpc_table import GrpcTable, OpenCalls, Send


_Table = TypeVar("_Table", HttpTable, GrpcTable)


def imported_first(table: _Table) -> _Table:
    """Return the table with methods that first wait for their module's lazy imports."""
    if isinstance(table, GrpcTable):
        methods = {path: _waiting(method) for path, method in table.methods.items()}
        streams = {path: _WaitingCalls(calls) for path, calls in table.streams.items()}
        return msgspec.structs.replace(table, methods=methods, streams=streams)
    endpoints = {
        name: msgspec.structs.replace(each, run=_waiting(each.run), stream=_waiting(each.stream))
        for name, each in table.endpoints.items()
    }
    return msgspec.structs.replace(table, endpoints=endpoints)


def endpoints_later(make: Callable[[], HttpTable]) -> Mapping[str, Endpoint]:
    """Return the endpoints of a table that is made when one of them is called."""
    return lazily(lambda: imported_first(make()).endpoints)


class _WaitingCalls:
    """Streaming method that first waits for its module's lazy imports."""

    def __init__(self, calls: OpenCalls) -> None:
        self._calls = calls
        self.read = calls.read

    async def handle(self, headers: Mapping[bytes, bytes], call: Call, receive: Receive, send: Send) -> None:
        """Answer one call, from its headers to its trailers."""
        if has_names(self.read.__module__):
            await asyncio.to_thread(load_names, self.read.__module__)
        await self._calls.handle(headers, call, receive, send)

    def stop(self) -> None:
        """End every call, as soon as the method allows."""
        self._calls.stop()


def _waiting(method: Callable[..., Any] | None) -> Any:
    if method is None:
        return None
    module = method.__module__

    async def first(*args: Any) -> Any:
        await asyncio.to_thread(load_names, module)
        return await method(*args)

    @functools.wraps(method)  # and its mark (effects.py)
    def call(*args: Any) -> Any:
        if has_names(module):
            return first(*args)
        return method(*args)

    return call
