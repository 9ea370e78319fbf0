"""Start of a host process, and the handles that its parent holds.

Command line, environment, descriptors and arenas of a child. Communication with it is in
:mod:`salver.kernel.engine.child`.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple, Protocol

import msgspec

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.output_limit import OutputLimit
from salver.kernel.engine.ports import CallbackProvider
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.shm import Arena
from salver.words.artifacts import Manifest

#: Variables that say how many threads libraries start with.
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: Environment variables against telemetry of libraries that models use, and to number GPUs as NVML does.
_SETTINGS = {"ORT_DISABLE_TELEMETRY": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
#: Environment variables of a fork server: threads would not survive a fork.
_ALONE = dict.fromkeys(THREAD_VARIABLES, "1")


class Interpreter(NamedTuple):
    """A Python interpreter other than that of this process.

    Attributes:
        program: Path of the interpreter.
        variables: Environment variables with which it finds this package and its own.
        release: Called when it is no longer used.
    """

    program: str
    variables: Mapping[str, str]
    release: Callable[[], Awaitable[None]]


class HostPlan(msgspec.Struct, frozen=True):
    """Plan of a host process.

    Attributes:
        backend: ``module:attribute`` of a backend, or of a class of one.
        memory_limit_mb: Limit of its address space; 0 = none.
        limit: A run that takes longer counts as hanging: the host is killed.
        server: Server that its model may call while it runs; None = none.
        interpreter: Interpreter to run it with; None = that of this process.
        hides: Regular expression of environment variables that it does not inherit; empty = it inherits all.
        program: See :class:`~salver.kernel.engine.control.Load`.
        forks: It is a fork server, if forking is safe; for programs that can be one.
        imports: Modules that a fork server imports; its children load the model.
        output: Limit on its logged output, shared by all hosts of this plan.
        starter: Starts the process instead of :func:`spawn`; None = none.
    """

    backend: str
    manifest: Manifest
    options: LoadOptions
    memory_limit_mb: int = 0
    limit: RunLimit = msgspec.field(default_factory=RunLimit)
    server: CallbackProvider | None = None
    interpreter: Interpreter | None = None
    hides: str = ""
    program: str = ""
    forks: bool = False
    imports: tuple[str, ...] = ()
    output: OutputLimit = msgspec.field(default_factory=OutputLimit)
    starter: "Starter | None" = None

    @property
    def program_path(self) -> str:
        """Return the path of its interpreter."""
        if self.interpreter is None:
            return sys.executable
        return self.interpreter.program

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment variables that it has by itself, unless they are set otherwise."""
        # Libraries read these when they are imported, so they must be set before the process starts.
        return {**_SETTINGS, **dict.fromkeys(THREAD_VARIABLES, str(self.options.threads))}

    @property
    def variables(self) -> dict[str, str]:
        """Return its whole environment, with the configured number of threads for its libraries."""
        given = dict(self.interpreter.variables) if self.interpreter is not None else {}
        return {**self.settings, **_seen(self.hides), **given}


class Process(Protocol):
    """Child process, or one forked by a child."""

    @property
    def pid(self) -> int:
        """Return its process id, which is also its group id."""
        ...

    def wait(self) -> int:
        """Wait until it is dead and return its exit status; afterwards its id may be reused."""
        ...

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        ...


class Starter(Protocol):
    """Way to start a host process other than executing it."""

    async def __call__(self, plan: HostPlan, /) -> "HostHandles":
        """Start it. Raises OSError as :func:`spawn` does."""
        ...


class SideChannel(NamedTuple):
    """Parent's end of the callback channel (:mod:`salver.kernel.engine.callback_messages`)."""

    sock: socket.socket
    asks: Arena
    answers: Arena

    def close(self) -> None:
        """Close the descriptors and arenas."""
        self.sock.close()
        self.asks.close()
        self.answers.close()


class HostHandles:
    """Parent's handles of a child: process, descriptors, arenas; not the callback channel."""

    def __init__(
        self,
        process: Process,
        sock: socket.socket,
        output: int,
        pidfd: int,
        arenas: tuple[Arena, Arena],
        side: SideChannel | None = None,
    ) -> None:
        self.process = process
        self.sock = sock
        self.output = output
        self.pidfd = pidfd
        self.requests, self.responses = arenas
        self.side = side

    def close(self) -> None:
        """Close descriptors and arenas; the process has already been reaped."""
        self.sock.close()
        os.close(self.output)
        os.close(self.pidfd)
        self.requests.close()
        self.responses.close()


def _seen(hides: str) -> Mapping[str, str]:
    """Return the environment without hidden variables."""
    if not hides:
        return os.environ
    return {name: value for name, value in os.environ.items() if not re.fullmatch(hides, name)}


class HostChannels(NamedTuple):
    """Connection of a parent to a child: the parent's ends, and the descriptors for the child.

    Attributes:
        passed: Child's descriptors of the control channel and of both arenas.
        their_output: Child's end of ``output``.
    """

    sock: socket.socket
    output: int
    arenas: tuple[Arena, Arena]
    passed: tuple[int, int, int]
    their_output: int


def open_line(name: str, undo: ExitStack, theirs_too: ExitStack) -> HostChannels:
    """Create arenas, control channel and output pipe for one child of that model.

    Args:
        undo: Closes the parent's ends on failure.
        theirs_too: Closes the child's ends, which the parent needs only until the child has them.

    Raises:
        OSError: out of descriptors or memory.
    """
    requests = Arena.create(f"{name}:requests")
    undo.callback(requests.close)
    responses = Arena.create(f"{name}:responses")
    undo.callback(responses.close)
    sock, their_sock = socket.socketpair()
    undo.callback(sock.close)
    theirs_too.callback(their_sock.close)
    output, their_output = os.pipe()
    undo.callback(os.close, output)
    theirs_too.callback(os.close, their_output)
    # Only the parent's ends: the child may wait, the event loop may not.
    sock.setblocking(False)
    os.set_blocking(output, False)
    passed = their_sock.fileno(), requests.fd, responses.fd
    return HostChannels(sock, output, (requests, responses), passed, their_output)


class HostEnds(NamedTuple):
    """Connection of a parent to a child, with the callback channel if its plan has a server.

    Attributes:
        passed: Child's descriptors, in the order of its command line.
    """

    line: HostChannels
    side: SideChannel | None
    passed: tuple[int, ...]

    def handles(self, process: Process, pidfd: int) -> HostHandles:
        """Return the parent's handles of the started child."""
        line = self.line
        return HostHandles(process, line.sock, line.output, pidfd, line.arenas, self.side)


def open_ends(plan: HostPlan, undo: ExitStack, theirs_too: ExitStack) -> HostEnds:
    """Create arenas, channels and output pipe for one child; arguments as for :func:`open_line`.

    Raises:
        OSError: out of descriptors or memory.
    """
    name = plan.manifest.id.name
    line = open_line(name, undo, theirs_too)
    if plan.server is None:
        return HostEnds(line, None, line.passed)
    asks = Arena.create(f"{name}:asks")
    undo.callback(asks.close)
    answers = Arena.create(f"{name}:answers")
    undo.callback(answers.close)
    mine, theirs = socket.socketpair()
    undo.callback(mine.close)
    theirs_too.callback(theirs.close)
    mine.setblocking(False)
    return HostEnds(
        line, SideChannel(mine, asks, answers), (*line.passed, theirs.fileno(), asks.fd, answers.fd)
    )


def execute(
    program: str, module: str, passed: Sequence[int], output: int, variables: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start an interpreter with a module, whose arguments are this process and inherited descriptors."""
    return subprocess.Popen(
        # -P keeps the working directory out of the path: a model folder may hold an ``asyncio.py``.
        [program, "-P", "-m", module, *map(str, (os.getpid(), *passed))],
        stdin=subprocess.DEVNULL,  # a model that asks for a password must not wait for ever
        stdout=output,
        stderr=output,
        pass_fds=passed,
        start_new_session=True,  # a group of its own, which is killed as a whole
        env=variables,
    )


def spawn(plan: HostPlan) -> HostHandles:
    """Start a child on the loop's own thread, because it dies with the *thread* that started it.

    Raises:
        OSError: out of descriptors, memory or processes; everything has been released.
    """
    with ExitStack() as undo, ExitStack() as theirs_too:
        ends = open_ends(plan, undo, theirs_too)
        variables = {**plan.variables, **_ALONE} if plan.forks else plan.variables
        output = ends.line.their_output
        process = execute(plan.program_path, "salver.kernel.engine.host", ends.passed, output, variables)
        undo.callback(process.wait)
        undo.callback(process.kill)
        # Its id cannot be reused before the parent waits for it.
        pidfd = os.pidfd_open(process.pid)
        undo.pop_all()
        return ends.handles(process, pidfd)
