"""Fork server, from which tests start ``salver`` without waiting for its imports.

What it starts is what the command would be: a process of its own with these arguments, this environment and
working directory, and real sockets. Servers of tests start from it (:func:`start`), and so does what pages of
the documentation call in a shell (:func:`write_command`), together with snippets in Python: for pages with
models of scikit-learn from one that has imported it (:data:`SKLEARN`). Tests of the command itself
(``tests/cli``) start a new interpreter.
"""

import array
import contextlib
import functools
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import cpu_notes
import forked_hosts

from salver.testing.process import RunningProcess

COMMAND = Path(sys.executable).with_name("salver")
#: Runs its argument, Python's text.
SNIPPET = "python-snippet"
#: What takes seconds to import for pages with a model of scikit-learn, and for servers of it.
SKLEARN = (
    "pandas",
    "sklearn.calibration",
    "sklearn.compose",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.naive_bayes",
    "sklearn.pipeline",
    "sklearn.svm",
    "skops.io",
)
#: scikit-learn's modules each import it, which no model of a snippet asks for.
_WITHOUT = "sklearn.externals.array_api_compat.torch"
#: Variables that are read when a server runs; with other ones changed a process starts anew.
_READ_LATE = ("SALVER_", "SAGEMAKER_", "AIP_", "OTEL_", "AWS_", "PYTEST_", "TF_")
_MESSAGE_BYTES = 1 << 17
_OF_SERVERS = (
    "cyclopts.completion",
    "encodings.idna",
    "numpy.random",
    "onnxruntime",
    "salver.backends.outputs",
    "salver.backends.sharing",
    "salver.cli.banner",
    "salver.cli.feature_tables",
    "salver.cli.server_file",
    "salver.cli.start",
    "salver.dialects.triton.config_view",
    "salver.features.telemetry.own_metrics",
    "salver.kernel.engine.process",
    "salver.kernel.engine.warmup",
    "salver.kernel.repository.advice",
    "salver.kernel.serving.model_callbacks",
    "salver.running",
    "uvloop",
    *forked_hosts.HOSTS,
)
#: With telemetry, ONNX Runtime starts a thread when it is imported.
_NO_THREAD = {"ORT_DISABLE_TELEMETRY": "1"}
_OF_REGISTRIES = (
    "salver.client.client",
    "salver.features.keyring.building",
    "salver.features.ledger.migrations",
    "salver.features.registry.command",
    "salver.features.registry.fetching",
    "salver.features.registry.opening",
    "salver.features.registry.registered",
    "salver.features.registry.registry",
    "salver.features.registry.registry_operations",
    "salver.features.registry.version_rows",
    "salver.features.registry.webhooks",
    "salver.features.releases.building",
    "salver.features.releases.command_watch",
    "salver.features.releases.composition",
    "salver.features.releases.release_operations",
    "salver.features.usage.building",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
)
#: The command for shells: has the server fork, passes signals on, and ends as the fork does. It imports next
#: to nothing, as it runs more than a hundred times.
_SCRIPT = """#!{python} -IS
import _signal, _socket, marshal, os, sys

connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
connection.connect({address!r})
order = marshal.dumps([[{command!r}, *sys.argv[1:]], dict(os.environ), os.getcwd()])
streams = b"".join(stream.to_bytes(4, sys.byteorder) for stream in (0, 1, 2))
connection.sendmsg([order], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
pid = int(connection.recv(16))
for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    _signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(connection.recv(16))
if code < 0:
    _signal.signal(-code, _signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def start(
    command: Sequence[str],
    *,
    stdin: int,
    stdout: IO[bytes],
    stderr: IO[bytes],
    env: Mapping[str, str],
    cwd: Path | None = None,
) -> RunningProcess:
    """Start a command as ``subprocess.Popen`` does, from the fork server where it may."""
    server = running(())
    if command[0] != str(COMMAND) or not _is_alike(env, server.env):
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
    return server.start(command, stdout, stderr, env, cwd or Path.cwd())


def write_command(folder: Path, name: str = COMMAND.name, modules: tuple[str, ...] = ()) -> Path:
    """Write a command into ``folder``, for a shell's PATH, that starts from a fork server with them.

    Whatever variables it has do not change the modules that are imported already.
    """
    script = folder / name
    command = str(COMMAND.with_name(name))
    text = _SCRIPT.format(python=sys.executable, address=running(modules).address, command=command)
    script.write_text(text)
    script.chmod(0o755)
    return script


def _is_alike(env: Mapping[str, str], base: Mapping[str, str]) -> bool:
    changed = {name for name, _ in env.items() ^ base.items()}
    return all(name.startswith(_READ_LATE) for name in changed)


class ForkedProcess:
    """A process that the fork server has started; the part of ``Popen`` that tests use.

    It is killed when nothing refers to this any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.pid = int(connection.recv(16))
        self.returncode: int | Any = None
        self._connection = connection
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status; None = it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raises ``TimeoutExpired`` as ``Popen.wait`` does."""
        with self._lock:
            if self.returncode is None:
                if not select.select([self._connection], (), (), timeout)[0]:
                    raise subprocess.TimeoutExpired([str(COMMAND)], timeout or 0)
                with self._connection:
                    told = self._connection.recv(16)
                assert told, "the fork server has ended"
                self.returncode = int(told)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end meanwhile
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def running(modules: tuple[str, ...]) -> "ForkServer":
    """Return the fork server of this process that has imported these, too; start it at the first call."""
    return ForkServer(modules)


class ForkServer:
    """The process that forks; it ends with this one.

    Args:
        modules: What it imports besides.
    """

    def __init__(self, modules: tuple[str, ...] = ()) -> None:
        self.env = dict(os.environ)
        self.address = f"\0salver-tests-{os.getpid()}-{len(modules)}"
        self._lifeline, theirs = os.pipe()[::-1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self.address)
            listener.listen(64)
            inherited = [listener.fileno(), theirs]
            self._process = subprocess.Popen(
                [sys.executable, __file__, *map(str, inherited), *modules],
                pass_fds=inherited,
                env=self.env | forked_hosts.ONE_THREAD | _NO_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        os.close(theirs)

    def start(
        self, command: Sequence[str], stdout: IO[bytes], stderr: IO[bytes], env: Mapping[str, str], cwd: Path
    ) -> ForkedProcess:
        """Fork a process with this output, and nothing to read."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self.address)
        order = marshal.dumps([list(command), dict(env), str(cwd)])
        with Path(os.devnull).open("rb") as nothing:
            streams = array.array("i", [nothing.fileno(), stdout.fileno(), stderr.fileno()])
            connection.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            return ForkedProcess(connection)


def _main(listener: socket.socket, lifeline: int, modules: Sequence[str]) -> None:
    """Fork a process for each caller, tell how it has ended, and kill it if the caller goes away."""
    sys.path[0] = str(COMMAND.parent)  # as the command has it, not the folder of this file
    _import(modules)
    gc.collect()
    gc.freeze()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(lifeline, 0)
    callers: dict[int, tuple[socket.socket, int, str]] = {}  # by the descriptors of their processes
    processes: dict[int, int] = {}  # by the descriptors of their callers
    while True:
        for ready, _ in poll.poll():
            if ready == lifeline:
                return
            if ready in callers:
                poll.unregister(ready)
                caller, pid, test = callers.pop(ready)
                os.close(ready)
                _, status, usage = os.wait4(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                cpu_notes.note(test, usage.ru_utime + usage.ru_stime)
                poll.unregister(caller)
                del processes[caller.fileno()]
                with caller, contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    caller.send(b"%d" % code)
            elif ready in processes:
                signal.pidfd_send_signal(processes[ready], signal.SIGKILL)
            elif ready == listener.fileno():
                caller, _ = listener.accept()
                received, streams, _, _ = socket.recv_fds(caller, _MESSAGE_BYTES, 3)
                command, env, cwd = marshal.loads(received)
                if not (pid := os.fork()):
                    # As sockets: one that is closed by its number is closed once more when the process ends.
                    for each in (*(other for other, _, _ in callers.values()), caller, listener):
                        each.close()
                    for descriptor in (*callers, lifeline):
                        os.close(descriptor)
                    _become(command, env, cwd, streams)
                for stream in streams:
                    os.close(stream)
                process = os.pidfd_open(pid)
                test = env.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
                callers[process], processes[caller.fileno()] = (caller, pid, test), process
                poll.register(process, select.POLLIN)
                poll.register(caller, 0)
                caller.send(b"%d" % pid)


def _import(modules: Sequence[str]) -> None:
    """Import what a server with default options imports, what those of registries do, and these."""
    from salver.configuration import ServeConfig
    from salver.feature import discover

    for name in (*_OF_SERVERS, *_OF_REGISTRIES):
        importlib.import_module(name)
    for backend in entry_points(group="salver.backends"):  # each imports its framework when it loads a model
        backend.load()
    for feature in discover():
        table = ServeConfig().table(feature.name, feature.config) if feature.config else None
        if feature.build and feature.is_used(table):
            importlib.import_module(feature.build.partition(":")[0])
    sys.modules[_WITHOUT] = None  # type: ignore[assignment]
    for name in modules:
        importlib.import_module(name)
    del sys.modules[_WITHOUT]


def _become(command: list[str], env: dict[str, str], cwd: str, streams: list[int]) -> None:
    """Run the command line in this process, and end."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    if Path(command[0]).name == SNIPPET:
        sys.path[0] = ""
        sys.argv[:] = ["-c"]
        sys.modules["__main__"] = program = ModuleType("__main__")
        exec(compile(command[1], "<string>", "exec"), vars(program))
        sys.exit()
    from salver.cli import main

    if not {"serve", "torchserve"}.isdisjoint(command):
        forked_hosts.begin_by_fork()
    sys.argv[:] = command
    sys.modules["__main__"].__file__ = command[0]  # multiprocessing imports it again in what it spawns
    sys.exit(main())


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])
