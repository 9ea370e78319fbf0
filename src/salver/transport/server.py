"""Servers that carry the application.

h2corn (HTTP/1.1, HTTP/2 and gRPC on one port) or uvicorn (HTTP/1.1 alone). Both run in the event
loop that is already there and end gracefully. One application may have several ports, with a server each.
"""

import asyncio
import contextlib
import logging
import os
import re
import resource
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.lazy import lazy_imports
from salver.transport.budget import MOST_HEAD, Budget
from salver.transport.doors import Kind
from salver.transport.parting import SHORT_S, Farewell, Parting, leave
from salver.words.errors import Conflict, InvalidInput, SalverError, Unsupported

with lazy_imports():
    from salver.transport.http1 import Terms
    from salver.transport.http1_server import Http1
    from salver.transport.relay import Relay


_LOG: Final = logging.getLogger("salver.transport")
#: Bytes of a path below which a socket of ours has a name that systems take (104 on macOS, its end included).
_LONGEST_FOLDER: Final = 70
#: What TorchServe's operators call the addresses of its ports.
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
#: What h2corn 2.0 ends with when it cannot accept: EMFILE or ENFILE.
_NO_DESCRIPTORS: Final = re.compile(r"os error (23|24)\b")
_PAUSE_S: Final = 1.0
#: For models, their host processes and files.
_KEPT_DESCRIPTORS = 512


class FrontConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how to listen.

    Attributes:
        port: 0 = any free one.
        grace_seconds: How long requests in flight may take to end after ``stop``.
        tls_cert, tls_key: PEM files; both or neither.
        tls_client_ca: PEM bundle; when given, callers must show a certificate it signed.
        serves: What may be asked at this port.
        shares_port: Other processes may listen on the same port, and the kernel deals out connections.
        platform: Options of the platform whose port it is (``dialects/clouds/doors.py``).
        cors_origins: Pages of these origins may ask from a browser; ``*`` = of every one.
        path: Of a UNIX socket, in place of host and port; empty = there is none.
        logs_json: Lines of the front's own are JSON objects.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    server: str = "h2corn"
    grace_seconds: float = 30.0
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    serves: Kind = "all"
    shares_port: bool = False
    platform: Mapping[str, Any] = {}
    cors_origins: tuple[str, ...] = ()
    path: str = ""
    logs_json: bool = False


class ExactPorts(msgspec.Struct, frozen=True):
    """Ports whose clients look at the letters of answers: they have a server of their own (TS-R16, TS-A6).

    Attributes:
        kinds: What such a port serves, with whether it speaks HTTP/2 as well.
        malformed: JSON that answers what is no request.
        most_body: Bytes of a body.
        budget: Memory for all bodies.
    """

    kinds: Mapping[str, bool] = {}
    malformed: bytes = b""
    most_body: int = 0
    budget: Budget | None = None


_NO_EXACT_PORTS: Final = ExactPorts()


class Listener(Protocol):
    """A running front."""

    port: int

    async def run(self) -> None:
        """Serve until ``stop``; returns when the last request in flight has ended."""
        ...

    async def started(self) -> None:
        """Returns once connections are accepted."""
        ...

    async def leave(self, delay_s: float) -> None:
        """Go on for so long, tell callers to close, then begin no new connection (transport.parting)."""
        ...

    def stop(self) -> None:
        """Accept no more; let what is in flight end."""
        ...


def listen(
    apps: Sequence[Any],
    configs: Sequence[FrontConfig],
    exact: ExactPorts = _NO_EXACT_PORTS,
    parting: Parting | None = None,
) -> list[Listener]:
    """Open the ports now, so that an error is known before any model loads.

    Args:
        apps: For each port, the application as it shows it.
        exact: Ports that have a server of their own.
        parting: Says when callers are told to close; None = of these listeners alone.

    Raises:
        Conflict: an address is taken or not ours.
        Unsupported: the server is not installed, or cannot do what is asked.
    """
    sockets: list[socket.socket] = []
    try:
        for config in configs:
            if config.server not in ("h2corn", "uvicorn"):
                raise Unsupported(f"there is no front {config.server!r}", fix="Use h2corn or uvicorn.")
            _secure(config)  # in words of ours, before a front has its own
            sockets.append(_bind(config))
        most = _most_connections() // len(configs)
        parting = parting or Parting()
        return [
            _listener(app, config, sock, most, exact, parting)
            for app, config, sock in zip(apps, configs, sockets, strict=True)
        ]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def _listener(
    app: Any,
    config: FrontConfig,
    sock: socket.socket,
    most: int,
    exact: ExactPorts,
    parting: Parting,
) -> Listener:
    if config.serves in exact.kinds:
        speaks_http2 = exact.kinds[config.serves]
        beside, relay = _beside(app, config, most, parting) if speaks_http2 else (None, None)
        terms = Terms(app, exact.most_body, exact.malformed, most, relay, exact.budget, parting)
        return Http1(terms, sock, _secure(config), config.grace_seconds, beside)
    if config.server == "h2corn":
        return _H2corn(app, config, sock, most, parting)
    return _Uvicorn(app, config, sock, parting)


def _beside(
    app: Any, config: FrontConfig, most: int, parting: Parting
) -> tuple[Listener | None, Callable[[asyncio.Transport, bytes], asyncio.Protocol] | None]:
    """A front for those who speak HTTP/2, as gRPC's clients do, and what passes them on to it (X-10)."""
    if config.server != "h2corn":
        return None, None
    where = tempfile.gettempdir()
    fits = len(os.fsencode(where)) <= _LONGEST_FOLDER
    folder = tempfile.TemporaryDirectory(prefix="salver-front-", dir=where if fits else "/tmp")
    path = str(Path(folder.name) / "h2")
    plain = msgspec.structs.replace(config, path=path, tls_cert="", tls_key="", tls_client_ca="")
    listener = _H2corn(app, plain, _bind_unix(path), most, parting)
    listener.keeps = folder  # which goes with it
    return listener, lambda transport, begun: Relay(transport, begun, path)


def _secure(config: FrontConfig) -> ssl.SSLContext | None:
    """TLS as that port wants it; None = it is in the clear.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
    """
    if not config.tls_cert:
        return None
    for path in filter(None, (config.tls_cert, config.tls_key, config.tls_client_ca)):
        _check_readable(path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key or None)
    except OSError as error:  # ssl.SSLError is one
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


def _bind(config: FrontConfig) -> socket.socket:
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
        sock.listen(1024)
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
    """Listen on a path; a socket that is there gives way, as for TensorFlow Serving and TorchServe.

    Raises:
        Conflict: it cannot be made, or something else than a socket is there.
    """
    if Path(path).is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                _LOG.warning("%s is taken from a server that listens there", path)
        Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        reason = error.strerror or error
        raise Conflict(f"cannot listen on {path}: {reason}", field="--grpc_socket_path") from error
    return sock


def _most_connections() -> int:
    """Raise the limit of open files as far as allowed; how many of them may be connections, of all ports.

    Models need some, too, so callers never get the last ones. 0 = no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return 0 if soft == resource.RLIM_INFINITY else max(soft - _KEPT_DESCRIPTORS, soft // 2)


class _H2corn:
    def __init__(
        self, app: Any, config: FrontConfig, sock: socket.socket, most: int, parting: Parting
    ) -> None:
        import h2corn  # not at the top: `salver --help` need not load a server
        from h2corn import _lib

        # h2corn 2.0 has no switch for its banner; the application tells the same in its own block.
        _lib.emit_banner = lambda *_: None
        self.port: int = 0 if config.path else sock.getsockname()[1]
        tls: dict[str, Any] = {}
        if config.tls_cert:
            tls = {"certfile": config.tls_cert, "keyfile": config.tls_key}
            if config.tls_client_ca:
                tls |= {"ca_certs": config.tls_client_ca, "cert_reqs": "required"}
        self._sock = sock  # kept, so that its queue of connections outlives a server that had to end
        self._stopping = asyncio.Event()

        def made() -> Any:
            settings = h2corn.Config(
                bind=(f"fd://{sock.fileno()}",),  # it takes a duplicate
                log_format="json" if config.logs_json else "text",
                grpc=True,
                lifespan="off",
                access_log=False,
                # One I/O thread: the application has one loop, and a second I/O thread costs a wake-up
                # a request (measured on two cores: 31 % more requests/s at one connection, 7 to 20 % at 64).
                runtime_threads=1,
                limit_connections=most,
                max_request_body_size=0,  # Front has a limit of its own, and its own words for it
                limit_request_head_size=MOST_HEAD,
                h2_max_header_list_size=MOST_HEAD,
                h2_max_header_block_size=MOST_HEAD,
                timeout_graceful_shutdown=config.grace_seconds,
                **tls,
            )
            return h2corn.Server(Farewell(app, parting), settings)

        self._made: Callable[[], Any] = made
        try:
            self._server = made()
        except (ValueError, OSError) as error:
            raise SalverError(f"the front refuses its settings: {error}") from error
        self._parting = parting
        self.keeps: Any = None

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._server.serve()
                    return
                except OSError as error:
                    if self._stopping.is_set() or not _NO_DESCRIPTORS.search(str(error)):
                        raise
                _LOG.error("no file descriptor is left: connections have ended, and new ones wait for some")
                while not self._stopping.is_set():
                    await asyncio.sleep(_PAUSE_S)
                    with contextlib.suppress(OSError):  # still none
                        self._server = self._made()
                        break
                else:
                    return
        finally:
            self._sock.close()

    async def started(self) -> None:
        await self._server.wait_started()

    async def leave(self, delay_s: float) -> None:
        await leave(self._sock, self._parting, delay_s)

    def stop(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        asyncio.get_running_loop().call_later(SHORT_S, self._refuse)

    def _refuse(self) -> None:
        """Have new connections refused: h2corn 2.0 keeps its duplicate open until the last request ends."""
        with contextlib.suppress(OSError):  # it is closed already
            self._sock.shutdown(socket.SHUT_RDWR)


class _Uvicorn:
    def __init__(self, app: Any, config: FrontConfig, sock: socket.socket, parting: Parting) -> None:
        try:
            import uvicorn  # an extra
        except ImportError as error:
            raise Unsupported("uvicorn is not installed", fix="pip install 'salver[uvicorn]'") from error
        if config.tls_client_ca:
            raise Unsupported("client certificates need the h2corn front", field="--tls-client-ca")
        self.port: int = 0 if config.path else sock.getsockname()[1]
        self._sock = sock
        self._parting = parting
        settings = uvicorn.Config(
            Farewell(app, parting),
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            ssl_certfile=config.tls_cert or None,
            ssl_keyfile=config.tls_key or None,
            timeout_graceful_shutdown=int(config.grace_seconds),
        )
        self._server = uvicorn.Server(settings)

    async def run(self) -> None:
        with contextlib.closing(self._sock):
            self._server.config.load()
            self._server.lifespan = self._server.config.lifespan_class(self._server.config)
            await self._server._serve([self._sock])  # `serve` would take over the signals

    async def started(self) -> None:
        while not self._server.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait for
            await asyncio.sleep(0.01)

    async def leave(self, delay_s: float) -> None:
        await leave(self._sock, self._parting, delay_s)

    def stop(self) -> None:
        self._server.should_exit = True
