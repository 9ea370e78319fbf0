"""Real servers as processes, for tests.

:class:`ServerProcess` runs ``salver serve`` on a free port of the loopback interface, :class:`TritonProcess`
with tritonserver's flags on three, :class:`TensorFlowServingProcess` with tensorflow_model_server's on two.
They know the command line and the health route, and nothing of models.
"""

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

_POLL_S = 0.02


class RunningProcess(Protocol):
    """Part of ``subprocess.Popen`` that servers are started and ended with."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None:
        """Return the exit status; None = it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        ...

    def kill(self) -> None:
        """Kill it."""
        ...


class ServerProcess:
    """A running server; use it as a context manager.

    Args:
        paths: Paths to serve, as on the command line.
        options: Further arguments of ``salver serve``.
        log: File for the server's output; read it with :meth:`output`.
        env: Additional environment variables; by default there is no drain delay (``SALVER_DRAIN_DELAY=0``).
        cwd: Working directory; default: this process's own.
    """

    host = "127.0.0.1"
    #: Starts the process; a suite of many servers may start them in another way than by a new interpreter.
    spawn: ClassVar[Callable[..., RunningProcess]] = staticmethod(subprocess.Popen)

    def __init__(
        self,
        paths: Sequence[Path | str],
        log: Path,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._paths = paths
        self._options = options
        self._log = log
        self._env = {"SALVER_DRAIN_DELAY": "0", **os.environ, **(env or {})}
        self._cwd = cwd
        self._process: RunningProcess | None = None
        self.port = 0

    def __enter__(self) -> "ServerProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<ServerProcess {self.address}>"

    @property
    def address(self) -> str:
        """Return ``host:port``, as tritonclient needs it."""
        return f"{self.host}:{self.port}"

    @property
    def ports(self) -> dict[str, int]:
        """Return the ports of ``http``, ``grpc`` and ``metrics``."""
        return {"http": self.port, "grpc": self.port, "metrics": self.port}

    @property
    def url(self) -> str:
        """Return ``http://host:port``."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """Return the process id of the main process."""
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        """Return the command line."""
        program = Path(sys.executable).with_name("salver")
        where = ["--host", self.host, "--port", str(self.port)]
        return [str(program), "serve", *map(str, self._paths), *where, *self._options]

    def start(self, port: int = 0) -> None:
        """Start without waiting for models; on a free port unless one is given."""
        self.port = port or free_port()
        with self._log.open("ab") as log:
            self._process = self.spawn(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, cwd=self._cwd
            )

    def wait_ready(self, timeout: float = 60.0) -> "ServerProcess":
        """Wait until ``/v2/health/ready`` reports ready.

        Raises:
            RuntimeError: the server ended, or did not become ready in time; with its last output.
        """
        return self.wait_for("/v2/health/ready", timeout)

    def wait_for(self, path: str, timeout: float = 60.0) -> "ServerProcess":
        """Wait until ``path`` answers 200; raises as :meth:`wait_ready`."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(path)[0] == 200:
                    return self
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}:\n{self._tail()}")
            time.sleep(_POLL_S)
        raise RuntimeError(f"{path} did not answer 200 within {timeout} s:\n{self._tail()}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET."""
        return self.ask("GET", path)

    def post(self, path: str, document: object) -> tuple[int, Any]:
        """Return status and decoded reply of a POST with a JSON body."""
        status, body = self.ask("POST", path, json.dumps(document).encode())
        return status, json.loads(body) if body else None

    def ask(
        self, verb: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(verb, path, body or None, dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        """Send a signal to the main process."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, timeout: float = 60.0) -> int:
        """End it by SIGTERM, or by force after ``timeout``; return the exit status."""
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """Return the exit status; kill what does not end in time."""
        process = self._process
        assert process is not None
        family = [pid for pid in self.family() if pid != process.pid]
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            for pid in family:  # a child that outlives its parent is a bug of the server, not of the machine
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def family(self) -> list[int]:
        """Return the main process and its living descendants (Linux)."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):  # processes and threads may end meanwhile
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def resident_bytes(self) -> int:
        """Return the memory of the whole family; shared pages count in each process."""
        page = os.sysconf("SC_PAGE_SIZE")
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        return total

    def descriptors(self) -> int:
        """Return the number of open descriptors of the main process."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def connections(self) -> int:
        """Return the number of open connections of callers (Linux, IPv4)."""
        ends = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(end[1].endswith(f":{self.port:04X}") and end[3] in ("01", "08") for end in ends)

    def output(self) -> str:
        """Return all output of the server so far."""
        return self._log.read_text(errors="replace")

    def _tail(self) -> str:
        return self.output()[-4000:]


class TritonProcess(ServerProcess):
    """Server with ``--compat triton``: ``paths`` are repositories, ``options`` are tritonserver's.

    If they open the port of a platform, or of OpenAI's routes, :attr:`ports` has it as ``sagemaker``,
    ``vertex`` or ``openai``.
    """

    grpc_port = metrics_port = platform_port = 0

    @property
    def ports(self) -> dict[str, int]:
        """Return the ports of ``http``, ``grpc``, ``metrics`` and platforms."""
        ports = {"http": self.port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        return ports | dict.fromkeys(self._platforms(), self.platform_port)

    def _platforms(self) -> list[str]:
        named = {"--allow-sagemaker=true": "sagemaker", "--allow-vertex-ai=true": "vertex"}
        named["--allow-openai=true"] = "openai"
        return [name for option, name in named.items() if option in self._options]

    def start(self, port: int = 0) -> None:
        """Start without waiting for models; ``port`` is that of HTTP."""
        self.grpc_port, self.metrics_port, self.platform_port = free_port(), free_port(), free_port()
        super().start(port)

    def command(self) -> list[str]:
        """Return the command line."""
        program = Path(sys.executable).with_name("salver")
        repositories = [f"--model-repository={path}" for path in self._paths]
        flags = {"vertex": "vertex-ai"}
        ports = [f"--{flags.get(name, name)}-port={port}" for name, port in self.ports.items()]
        return [str(program), "serve", "--compat=triton", *repositories, *ports, *self._options]


class TensorFlowServingProcess(ServerProcess):
    """Server with ``--compat tensorflow-serving``; ``options`` are tensorflow_model_server's.

    ``port`` is that of REST.
    """

    grpc_port = 0

    def __init__(self, log: Path, options: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        super().__init__((), log, options, env)

    @property
    def ports(self) -> dict[str, int]:
        """Return the ports of ``http``, ``grpc`` and ``metrics``."""
        return {"http": self.port, "grpc": self.grpc_port, "metrics": self.port}

    def start(self, port: int = 0) -> None:
        """Start without waiting for models; ``port`` is that of REST."""
        self.grpc_port = free_port()
        super().start(port)

    def command(self) -> list[str]:
        """Return the command line."""
        program = Path(sys.executable).with_name("salver")
        ports = [f"--port={self.grpc_port}", f"--rest_api_port={self.port}"]
        level = "--log_level=info"  # overrides TF_CPP_MIN_LOG_LEVEL as set by a TensorFlow in this process
        return [str(program), "serve", "--compat=tensorflow-serving", *ports, level, *self._options]


#: Below the range for outgoing connections (with Linux from 32768): a free port in that range may be in use
#: by a connection when a server listens.
_PORTS = range(10_000, 32_000)
_tried = itertools.count(random.randrange(len(_PORTS)))  # each process in a different order


def free_port() -> int:
    """Return a port that was free a moment ago."""
    while True:
        port = _PORTS[next(_tried) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
