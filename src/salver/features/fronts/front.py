"""A front's side: the models whose requests it decodes, and its end of the socket to the home process."""

import asyncio
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from salver.features.fronts.channel import Channel
from salver.features.fronts.copies import Granted
from salver.features.fronts.front_app import FrontApp
from salver.features.fronts.messages import (
    Ack,
    Copies,
    FromHome,
    Happened,
    Logged,
    Outputs,
    Parting,
    Refusal,
)
from salver.features.fronts.outgoing import OutgoingRequests
from salver.features.fronts.remote_engine import RemoteLoader, RemoteRequests
from salver.parts import Kernel
from salver.transport.doors import App
from salver.words.artifacts import Manifest
from salver.words.events import BatchRan, Event, Served, StateChanged

_GRPC: Final = b"application/grpc"
#: Call that has the gRPC methods imported.
_HEALTH: Final = "/grpc.health.v1.Health/Check"


class FrontSide:
    """A front's end of the socket, with the models whose requests it decodes.

    Attributes:
        copies: Names of these models: it runs copies, or has the home process's engines run them.
        loader: Loads versions that the home process runs.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._granted: dict[bytes, Granted] = {}
        self._manifests: tuple[Manifest, ...] = ()
        self._warming: asyncio.Task[None] | None = None
        self._app: App | None = None
        self.copies: frozenset[str] = frozenset()
        self.channel: Channel[FromHome] = Channel(FromHome, self._hear, _end)
        self._requests = OutgoingRequests(self.channel.send)
        self._decoded = RemoteRequests(self.channel.send)
        self.loader = RemoteLoader(self._decoded)

    def __repr__(self) -> str:
        return f"<FrontSide, {self._requests!r}, copies of {', '.join(sorted(self.copies)) or 'nothing'}>"

    async def connect(self, descriptor: int) -> None:
        """Take over the socket, and send the log there."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.channel, sock=socket.socket(fileno=descriptor))
        handler = _LogHandler(self.channel.send, loop)
        logging.getLogger().handlers[:] = [handler]

    def enclose(self, apps: Sequence[App]) -> Sequence[App]:
        """Pass everything on that no copy answers."""
        self._app = apps[0]
        scheme = "https" if self._kernel.config.front.tls_cert else "http"
        return [FrontApp(apps[0], self, self._requests, self._kernel.context.streaming.stream, scheme)]

    async def opened(self, ports: Sequence[int]) -> None:
        """Say that copies can come."""
        self.channel.send(Ack(0))

    async def close(self) -> None:
        """Send what is left, and close."""
        if self._warming is not None:
            self._warming.cancel()
        self.channel.close()

    def _hear(self, message: FromHome) -> None:
        if isinstance(message, Outputs | Refusal):
            self._decoded.hear(message)
        elif isinstance(message, Copies):
            self._take(message)
        elif not isinstance(message, Parting):
            self._requests.hear(message)
        else:
            self._kernel.context.parting.is_told = True
            if message.is_last:
                signal.raise_signal(signal.SIGTERM)

    # -- copies --

    def over(self, found: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Return the versions to load (:class:`~salver.kernel.serving.controlplane.Changes`)."""
        return self._manifests

    def ask_again(self, name: str) -> None:
        """Do nothing: requests to load a model go to the home process."""

    def _take(self, message: Copies) -> None:
        """Stop what is not in the list any more, at once; then begin to load what is new."""
        known, granted = self._granted, message.granted
        if granted == tuple(known):
            self.channel.send(Ack(message.epoch))
            return
        kept = {pickled: known[pickled] for pickled in granted if pickled in known}
        if len(kept) < len(known):
            self._grant(kept)
            self._note()
        self.channel.send(Ack(message.epoch))
        self._grant({each: kept.get(each) or pickle.loads(each) for each in granted})

    def _grant(self, granted: dict[bytes, Granted]) -> None:
        self._granted = granted
        self._manifests = self.loader.take(tuple(granted.values()))
        self._kernel.plane.refresh()

    def _note(self) -> None:
        self.copies = frozenset(each.manifest.id.name for each in self._kernel.models.servables())
        if self.copies and self._warming is None and self._app is not None:
            self._warming = asyncio.get_running_loop().create_task(_import_grpc(self._app))

    def observe(self, events: Sequence[Event]) -> None:
        """Send the events of copies to the home process."""
        served = [event for event in events if type(event) is Served]
        ran = [event for event in events if type(event) is BatchRan]
        if served or ran:
            encode = msgspec.msgpack.encode
            self.channel.send(Happened(msgspec.Raw(encode(served)), msgspec.Raw(encode(ran))))
        if any(type(event) is StateChanged for event in events):
            self._note()


async def _import_grpc(app: App) -> None:
    """Call a method, because the methods are imported at the first call."""
    scope: dict[str, Any] = {
        "type": "http", "http_version": "2", "method": "POST", "scheme": "http", "path": _HEALTH,
        "raw_path": _HEALTH.encode(), "query_string": b"", "headers": ((b"content-type", _GRPC),),
        "client": None, "server": None,
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(5), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    await app(scope, receive, send)


class _LogHandler(logging.Handler):
    """Sends the log to the home process."""

    def __init__(self, send: Callable[[msgspec.Struct], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._send = send
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        message = record.msg
        if not isinstance(message, dict):
            message = record.getMessage()
            if record.exc_info and record.exc_info[0] is not None:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
        else:
            message = {str(key): str(value) for key, value in message.items()}
        logged = Logged(record.name, record.levelno, message)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._send, logged)


def _end() -> None:
    """End at once: without its home process a front can answer nothing."""
    os._exit(1)
