"""Listening sockets of the server, with a listener for each.

One application may have several ports. Each speaks HTTP/1.1 and HTTP/2, including gRPC, with or without TLS.
A listener closes connections that are idle for too long, and shuts down gracefully.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from salver.transport.budget import Budget
from salver.transport.doors import App, Kind
from salver.transport.http1 import Connection
from salver.transport.parting import PARTING_S, Parting, leave
from salver.transport.terms import OpenConnection, PeerFacts, Pulse, Terms
from salver.words.errors import Conflict, InvalidInput

_LOG: Final = logging.getLogger("salver.transport")
#: Names of the addresses in TorchServe's configuration, for error texts.
_KEYS: Final = {
    "torchserve-inference": "inference_address",
    "torchserve-management": "management_address",
    "torchserve-metrics": "metrics_address",
    "torchserve-inference-metrics": "inference_address",
    "torchserve-management-metrics": "management_address",
    "torchserve-all": "inference_address",
    "torchserve-grpc-inference": "grpc_inference_port",
    "torchserve-grpc-management": "grpc_management_port",
}
#: Body of the answer to malformed HTTP.
_MALFORMED: Final = (
    b'{"error":"malformed HTTP: a line, a header or a length is not as RFC 9112 has it, or there are two '
    b'lengths (Content-Length twice, or beside Transfer-Encoding)"}'
)
#: Seconds without a byte after which a connection closes: in a head, in a body, between two requests.
HEAD_S: Final = 10.0
PATIENCE_S: Final = 60.0
IDLE_S: Final = 300.0
_HANDSHAKE_S: Final = 5.0
#: Length of the kernel's accept queue.
BACKLOG: Final = 4096
#: Connections accepted in one turn of the event loop, about 3 ms of it.
_MOST_ACCEPTED: Final = 32
_LOOK_S: Final = 5.0
#: File descriptors that are reserved for models, their host processes and files.
_KEPT_DESCRIPTORS = 512


class FrontConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of one port.

    Attributes:
        port: TCP port; 0 = any free one.
        grace_seconds: Seconds that requests in flight may take to finish after ``stop``.
        tls_cert, tls_key: PEM files; both or neither.
        tls_client_ca: PEM bundle; if given, clients must present a certificate signed by it.
        serves: Part of the application that the port serves.
        shares_port: Other processes may listen on the same port; the kernel distributes the connections.
        platform: Options of a cloud platform's port (``dialects/clouds/doors.py``).
        cors_origins: Origins whose pages may send requests; ``*`` = every origin.
        path: Path of a UNIX socket, in place of host and port; empty = none.
        descriptor: Open socket that listens at this address; -1 = it has to be opened.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace_seconds: float = 30.0
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    serves: Kind = "all"
    shares_port: bool = False
    platform: Mapping[str, Any] = {}
    cors_origins: tuple[str, ...] = ()
    path: str = ""
    descriptor: int = -1


class ExactPorts(msgspec.Struct, frozen=True):
    """Ports that read bodies completely, within a limit, before they call the application (TS-R16, TS-A6).

    Attributes:
        kinds: Kinds of these ports, each with whether it speaks HTTP/2 as well.
        malformed: JSON body of the answer to malformed HTTP.
        most_body: Most bytes of a body.
        budget: Memory for all bodies.
    """

    kinds: Mapping[str, bool] = {}
    malformed: bytes = b""
    most_body: int = 0
    budget: Budget | None = None


_NO_EXACT_PORTS: Final = ExactPorts()


def listen(
    apps: Sequence[Any],
    configs: Sequence[FrontConfig],
    exact: ExactPorts = _NO_EXACT_PORTS,
    parting: Parting | None = None,
    peers: PeerFacts | None = None,
) -> "list[Listener]":
    """Open the ports at once, so that an error is reported before any model loads.

    Args:
        apps: Application of each port.
        exact: Ports whose bodies are read completely before the application is called.
        parting: Shutdown state; None = one for these listeners alone.
        peers: Tells about the other end of a connection; None = nothing is told.

    Raises:
        Conflict: an address is in use or does not belong to this machine.
        InvalidInput: a TLS file is invalid.
    """
    sockets: list[socket.socket] = []
    try:
        contexts = [_secure(config, has_http2=config.serves not in exact.kinds) for config in configs]
        for config in configs:
            sockets.append(bind(config))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    most = _most_connections() // len(configs)
    parting, pulse = parting or Parting(), Pulse()
    every = [
        _terms(app, config, exact, most, parting, pulse) for app, config in zip(apps, configs, strict=True)
    ]
    for terms in every:
        terms.peers = peers
    return [
        Listener(terms, sock, context, config.grace_seconds)
        for terms, config, sock, context in zip(every, configs, sockets, contexts, strict=True)
    ]


def _terms(
    app: App, config: FrontConfig, exact: ExactPorts, most: int, parting: Parting, pulse: Pulse
) -> Terms:
    if config.serves in exact.kinds:
        speaks = exact.kinds[config.serves]
        return Terms(
            app, exact.most_body, exact.malformed, most, exact.budget, parting, pulse, speaks_http2=speaks
        )
    return Terms(app, malformed=_MALFORMED, connections=most, parting=parting, pulse=pulse)


def _secure(config: FrontConfig, *, has_http2: bool) -> ssl.SSLContext | None:
    """Return the TLS context of a port; None = no TLS.

    Raises:
        InvalidInput: a file cannot be read or is invalid.
    """
    if not config.tls_cert:
        return None
    # OpenSSL names no file in its errors, so each is opened by itself first.
    for path in filter(None, (config.tls_cert, config.tls_key, config.tls_client_ca)):
        _check_readable(path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"] if has_http2 else ["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key or None)
    except OSError as error:  # includes ssl.SSLError
        text = f"{config.tls_cert} and {config.tls_key} are no certificate with its key: {_reason(error)}"
        raise InvalidInput(text, fix="Give two PEM files; the key without a password.") from error
    try:
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        text = f"{config.tls_client_ca} holds no certificates: {_reason(error)}"
        raise InvalidInput(text, fix="Give a PEM file.") from error
    return context


def _check_readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read, for TLS: {error.strerror}") from error


def _reason(error: OSError) -> str:
    reason: str = getattr(error, "reason", None) or "no PEM"
    return reason.replace("_", " ").lower()


def bind(config: FrontConfig) -> socket.socket:
    """Return a socket that listens as configured. Raises Conflict if it cannot."""
    if config.descriptor >= 0:
        inherited = socket.socket(fileno=config.descriptor)
        inherited.set_inheritable(False)
        inherited.setblocking(False)
        return inherited
    if config.path:
        return _bind_unix(config.path)
    host, port = config.host, config.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        flag = _KEYS.get(config.serves) or (
            "--host" if config.serves == "all" else f"--{config.serves}-address"
        )
        raise Conflict(f"cannot listen on {host}: {error}", field=flag) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.shares_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        flag = _KEYS.get(config.serves) or ("--port" if config.serves == "all" else f"--{config.serves}-port")
        raise Conflict(
            f"cannot listen on {host}:{port}: {error.strerror}",
            field=flag,
            fix=f"Choose another with {flag}, or end the program that has it.",
        ) from error
    return sock


def _bind_unix(path: str) -> socket.socket:
    """Listen on a path; replace a socket that exists, as TensorFlow Serving and TorchServe do.

    Raises:
        Conflict: the socket cannot be created, or the path is not a socket.
    """
    if Path(path).is_socket():
        # Only to warn: the servers that this follows take the path in any case.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                _LOG.warning("%s is taken from a server that listens there", path)
        Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        reason = error.strerror or error
        raise Conflict(f"cannot listen on {path}: {reason}", field="--grpc_socket_path") from error
    return sock


def _most_connections() -> int:
    """Raise the limit of open files as far as allowed; return how many connections all ports may have.

    Some descriptors are reserved for models. 0 = no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return 0
    # At least half, or a small limit would leave nothing for callers.
    return max(soft - _KEPT_DESCRIPTORS, soft // 2)


class Listener:
    """Listener of one port.

    Args:
        secure: TLS context; None = no TLS.
        grace: Seconds that requests in flight may take to finish after ``stop``.
    """

    def __init__(
        self,
        terms: Terms,
        sock: socket.socket,
        secure: ssl.SSLContext | None = None,
        grace: float = 30.0,
    ) -> None:
        name = sock.getsockname()
        self.port: int = name[1] if isinstance(name, tuple) else 0
        self._terms = terms
        self._socket = sock
        self._secure = secure
        self._grace = grace
        self._is_short = False  # no file descriptor is left for a new connection
        self._is_accepting = False
        self._connect: Callable[..., Any]
        self._connecting: set[asyncio.Future[Any]] = set()
        self._has_started = asyncio.Event()
        self._shall_stop = asyncio.Event()
        self._has_parted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Listener on {self.port}, {len(self._terms.open)} connections>"

    @property
    def is_connected(self) -> bool:
        """Whether any connection is open."""
        return bool(self._terms.open)

    async def run(self) -> None:
        """Serve until ``stop``; return when the last request in flight has ended."""
        loop = asyncio.get_running_loop()
        scheme = "https" if self._secure else "http"

        def connected() -> Connection:
            # Once a turn, for the first connection of a burst.
            if not self._is_accepting:
                self._is_accepting = True
                loop.call_soon(self._accept_more)
            return Connection(self._terms, scheme)

        is_unix = self._socket.family == socket.AF_UNIX
        listen = loop.create_unix_server if is_unix else loop.create_server
        secure: dict[str, Any] = {}
        if self._secure:
            secure = {"ssl": self._secure, "ssl_handshake_timeout": _HANDSHAKE_S}
        # Connections are protocols of asyncio's without a class of it.
        accepted = cast(Callable[..., Any], loop.connect_accepted_socket)
        self._connect = partial(accepted, partial(Connection, self._terms, scheme), **secure)
        opened = cast(Callable[..., Any], listen)
        server = await opened(connected, sock=self._socket, backlog=BACKLOG, **secure)
        watching = asyncio.create_task(self._watch())
        self._has_started.set()
        try:
            await self._shall_stop.wait()
        finally:
            watching.cancel()
            server.close()
            try:
                await self._end()
            finally:
                self._has_parted.set()

    def _accept_more(self) -> None:
        """Accept further connections: libuv itself accepts one per turn of the event loop.

        With long turns, the kernel's queue would overflow in a burst, and callers would wait for seconds.
        """
        self._is_accepting = False
        for _ in range(_MOST_ACCEPTED):
            try:
                sock = self._socket.accept()[0]
            except OSError:  # none is waiting, or no descriptor is left
                return
            sock.setblocking(False)
            task = asyncio.ensure_future(self._connect(sock=sock))
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Future[Any]") -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.debug("a connection ended before it began: %s", error)

    async def started(self) -> None:
        """Wait until connections are accepted."""
        await self._has_started.wait()

    async def leave(self, delay_s: float) -> None:
        """Tell callers to close, wait for the delay, then refuse new connections."""
        await leave(self._socket, self._terms.parting, delay_s)

    async def parted(self) -> None:
        """Wait, after ``stop``, until no caller may begin a request; earlier ones are to be answered."""
        await self._has_parted.wait()

    def stop(self) -> None:
        """Accept no more connections; let requests in flight finish."""
        self._shall_stop.set()

    async def _watch(self) -> None:
        """Close overdue connections and stalled answers at intervals."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = loop.time()
            self._look_for_descriptors()
            for connection in overdue(self._terms.open, now):
                connection.drop()
            # A copy: a connection that is cut leaves the set.
            for connection in list(self._terms.open):
                connection.cut_stalled(now, PATIENCE_S)

    def _look_for_descriptors(self) -> None:
        """Log once if no descriptor is left, in which case the event loop closes new connections."""
        try:
            # The loop closes such connections silently; to try it is the only way to learn of it.
            os.close(os.dup(self._socket.fileno()))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self._is_short:
                self._is_short = True
                _LOG.error("no file descriptor is left: new connections are closed until some are free")
        else:
            self._is_short = False

    async def _end(self) -> None:
        for connection in list(self._terms.open):
            connection.end()
        if self._terms.open:
            await asyncio.sleep(PARTING_S)  # ends after the timers of HTTP/2 connections, which began before
        self._has_parted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                # Looked at, not told: callers read at their own pace, which no event reports.
                while any(each.has_unsent or not each.is_idle for each in self._terms.open):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        for connection in list(self._terms.open):
            connection.drop()


def overdue(connections: Iterable[OpenConnection], now: float) -> list[OpenConnection]:
    """Return the connections that have sent nothing for too long, within a request or between two."""
    return [each for each in connections if not each.is_busy and now - each.since > _patience(each)]


def _patience(connection: OpenConnection) -> float:
    if connection.is_idle:
        return IDLE_S
    if connection.is_in_head:
        return HEAD_S
    return PATIENCE_S
