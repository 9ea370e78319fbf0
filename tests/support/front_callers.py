"""Connections to one process of a server that has several fronts."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc as triton_grpc
from waiting import PATIENCE_S, until

from salver.testing.process import ServerProcess

T = TypeVar("T")
_ESTABLISHED = "01"


def fronts_of(server: ServerProcess) -> list[int]:
    """The processes beside the home process that answer at the port."""
    found = []
    for pid in server.family():
        command = Path(f"/proc/{pid}/cmdline")
        if pid != server.pid and command.exists() and b"salver.front_process" in command.read_bytes():
            found.append(pid)
    return found


def connected(server: ServerProcess, pid: int) -> set[int]:
    """The callers' ports of a process's connections."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = f":{server.port:04X}"
    return {
        int(row[2].rpartition(":")[2], 16)
        for row in rows
        if row[1].endswith(here) and row[3] == _ESTABLISHED and row[9] in inodes
    }


def at(server: ServerProcess, pid: int) -> http.client.HTTPConnection:
    """A connection that the process has."""

    def once() -> http.client.HTTPConnection | None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        if connection.sock.getsockname()[1] in connected(server, pid):
            return connection
        connection.close()
        return None

    return _until(once)


@contextmanager
def grpc_at(server: ServerProcess, pid: int) -> Iterator[triton_grpc.InferenceServerClient]:
    """A client by gRPC whose one connection the process has."""

    def once() -> triton_grpc.InferenceServerClient | None:
        before = connected(server, pid)
        options = [("grpc.use_local_subchannel_pool", 1)]
        client = triton_grpc.InferenceServerClient(server.address, channel_args=options)
        assert client.is_server_live()
        if connected(server, pid) - before:
            return client
        client.close()
        return None

    client = _until(once)
    try:
        yield client
    finally:
        client.close()


def _until(once: Callable[[], T | None]) -> T:
    found: list[T] = []

    def look() -> bool:
        one = once()
        if one is not None:
            found.append(one)
        return one is not None

    until(look)
    return found[0]


def ask(
    connection: http.client.HTTPConnection, verb: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers without those that differ each time, and body; ``body`` may be a document."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(verb, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    reply = connection.getresponse()
    heads = {name.lower(): value for name, value in reply.getheaders()}
    heads.pop("x-request-id", None)
    return reply.status, heads, reply.read()


def infer_grpc(
    client: triton_grpc.InferenceServerClient, model: str, rows: int = 1, version: str = ""
) -> Any:
    """The answer of a model with one input of 16 columns."""
    values = np.full((rows, 16), 0.5, np.float32)
    given = triton_grpc.InferInput("x", [rows, 16], "FP32")
    given.set_data_from_numpy(values)
    return client.infer(model, [given], version).get_response()
