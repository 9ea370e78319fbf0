"""How does a host process come into being, and what does its parent hold of it?

The command line, environment, descriptors and arenas of a child. What is said to it afterwards is
not known here (:mod:`salver.kernel.engine.child`).
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import msgspec

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.engine.sharing import THREAD_VARIABLES
from salver.kernel.engine.output_limit import OutputLimit
from salver.kernel.engine.ports import Server
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.shm import Arena
from salver.words.artifacts import Manifest

#: Libraries that models use and that would call home unasked.
_QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
#: Of a host that forks: threads would not come along.
_ALONE = dict.fromkeys(THREAD_VARIABLES, "1")


class Interpreter(NamedTuple):
    """A Python other than this process's own.

    Attributes:
        program: Its path.
        variables: Environment variables that go with it, so that it finds this package, and its own.
        release: Nobody uses it any more.
    """

    program: str
    variables: Mapping[str, str]
    release: Callable[[], Awaitable[None]]


class HostPlan(msgspec.Struct, frozen=True):
    """What a host process is to be.

    Attributes:
        backend: ``module:attribute`` of a backend, or of a class of one.
        memory_limit_mb: Limit of its address space; 0 = none.
        limit: A run that takes longer is taken for a hang: the host is killed.
        server: What its model may ask while it runs; None = nothing.
        interpreter: Runs it; None = the one of this process.
        hides: Environment variables with a name that this regular expression matches are not its own; empty =
            all are.
        bears: It is to fork others rather than to run anything, if that is safe.
        imports: These modules are all that it loads before it forks; those load the model.
        output: How much of what it writes is logged, of all hosts by this plan.
    """

    backend: str
    manifest: Manifest
    options: LoadOptions
    memory_limit_mb: int = 0
    limit: RunLimit = msgspec.field(default_factory=RunLimit)
    server: Server | None = None
    interpreter: Interpreter | None = None
    hides: str = ""
    bears: bool = False
    imports: tuple[str, ...] = ()
    output: OutputLimit = msgspec.field(default_factory=OutputLimit)

    @property
    def variables(self) -> dict[str, str]:
        """Its whole environment, with as many threads for its libraries as its owner wants."""
        given = dict(self.interpreter.variables) if self.interpreter is not None else {}
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.options.threads))
        return {**_QUIET, **threads, **_seen(self.hides), **given}


class Process(Protocol):
    """A child, or somebody else's."""

    @property
    def pid(self) -> int:
        """Its id, which is its group's as well."""
        ...

    def wait(self) -> int:
        """Its exit status once it is dead; its id may be another's after that."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


class Side(NamedTuple):
    """The parent's end of the side channel (:mod:`salver.kernel.engine.callback_messages`)."""

    sock: socket.socket
    asks: Arena
    answers: Arena

    def close(self) -> None:
        """Give it back."""
        self.sock.close()
        self.asks.close()
        self.answers.close()


class Ends:
    """What the parent holds of a child: process, descriptors, arenas; the side channel closes by itself."""

    def __init__(
        self,
        process: Process,
        sock: socket.socket,
        output: int,
        pidfd: int,
        arenas: tuple[Arena, Arena],
        side: Side | None = None,
    ) -> None:
        self.process = process
        self.sock = sock
        self.output = output
        self.pidfd = pidfd
        self.requests, self.responses = arenas
        self.side = side

    def close(self) -> None:
        """Give the descriptors and arenas back; the process is reaped already."""
        self.sock.close()
        os.close(self.output)
        os.close(self.pidfd)
        self.requests.close()
        self.responses.close()


def _seen(hides: str) -> Mapping[str, str]:
    """The environment, without what is hidden."""
    if not hides:
        return os.environ
    return {name: value for name, value in os.environ.items() if not re.fullmatch(hides, name)}


class Line(NamedTuple):
    """What a parent and a child speak by: the parent's ends, and what the child is given.

    Attributes:
        passed: Descriptors of the control channel and of both arenas, as the child's ends.
        their_output: The end of ``output`` that the child writes to.
    """

    sock: socket.socket
    output: int
    arenas: tuple[Arena, Arena]
    passed: tuple[int, int, int]
    their_output: int


def open_line(name: str, undo: ExitStack, theirs_too: ExitStack) -> Line:
    """Arenas, control channel and output for one child of that model.

    Args:
        undo: Closes the parent's ends.
        theirs_too: Closes the child's, which the parent needs no longer than until the child has them.

    Raises:
        OSError: no descriptor or memory is left.
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
    sock.setblocking(False)
    os.set_blocking(output, False)
    passed = their_sock.fileno(), requests.fd, responses.fd
    return Line(sock, output, (requests, responses), passed, their_output)


def spawn(plan: HostPlan) -> Ends:
    """Start a child, on the loop's own thread: the child dies with the *thread* that started it.

    Raises:
        OSError: no descriptor, memory or process is left; nothing is kept.
    """
    name = plan.manifest.id.name
    with ExitStack() as undo, ExitStack() as theirs_too:
        line = open_line(name, undo, theirs_too)
        passed = list(line.passed)
        side = None
        if plan.server is not None:
            asks = Arena.create(f"{name}:asks")
            undo.callback(asks.close)
            answers = Arena.create(f"{name}:answers")
            undo.callback(answers.close)
            mine, theirs = socket.socketpair()
            undo.callback(mine.close)
            theirs_too.callback(theirs.close)
            mine.setblocking(False)
            side = Side(mine, asks, answers)
            passed += [theirs.fileno(), asks.fd, answers.fd]
        program = plan.interpreter.program if plan.interpreter is not None else sys.executable
        process = subprocess.Popen(
            [program, "-P", "-m", "salver.kernel.engine.host", *map(str, (os.getpid(), *passed))],
            stdin=subprocess.DEVNULL,
            stdout=line.their_output,
            stderr=line.their_output,
            pass_fds=passed,
            start_new_session=True,
            env={**plan.variables, **_ALONE} if plan.bears else plan.variables,
        )
        undo.callback(process.wait)
        undo.callback(process.kill)
        pidfd = os.pidfd_open(process.pid)
        undo.pop_all()
        return Ends(process, line.sock, line.output, pidfd, line.arenas, side)
