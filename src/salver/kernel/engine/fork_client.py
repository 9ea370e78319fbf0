"""Start of host processes as forks of processes that have imported their frameworks.

:class:`ForkServers` keeps one fork server (:mod:`salver.kernel.engine.fork_server`) for each set of imports
and environment, starts it for the first host, and ends it some minutes after its last host. A host that
cannot be forked is executed: a fork server that dies costs nothing but the imports of the next start.
"""

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from salver.kernel.engine.fork_server import READY, Preload
from salver.kernel.engine.spawn import HostHandles, HostPlan, execute, open_ends, spawn

_log = logging.getLogger(__name__)
_PROGRAM: Final = "salver.kernel.engine.fork_server"
_PR_SET_CHILD_SUBREAPER: Final = 36
IMPORT_S: Final = 120.0  # longer than the slowest framework takes on a busy machine
FORK_S: Final = 20.0
IDLE_S: Final = 300.0  # seconds without a host after which a fork server ends


class _ForkRefused(Exception):
    """A fork server cannot fork; the text says why."""


class ForkedHost:
    """Host process that a fork server has forked: a child of this process all the same."""

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        self.pid = pid
        self._on_end = on_end

    def wait(self) -> int:
        """See :class:`~salver.kernel.engine.spawn.Process`."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._on_end()
        return code

    def kill(self) -> None:
        """See :class:`~salver.kernel.engine.spawn.Process`."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Adoptions:
    """Forks that are under way, of all fork servers of this process."""

    count = 0
    lock = threading.Lock()


@contextmanager
def adopting() -> Iterator[None]:
    """Have orphans become children of this process: the fork, whose own parent ends at once."""
    _adopt(1)
    try:
        yield
    finally:
        _adopt(-1)


def _adopt(more: int) -> None:
    with _Adoptions.lock:
        _Adoptions.count += more
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(_Adoptions.count > 0))


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return False
    return True


class _Imports(NamedTuple):
    """Identity of a fork server: its imports, and what these may read."""

    names: tuple[str, ...]
    variables: frozenset[tuple[str, str]]
    folder: str
    program: str


class ForkServer:
    """Server's side of one fork server.

    Attributes:
        dead: Result: how it ended.
        hosts: Number of its hosts that live.
        why_not: Why it never forks; empty = it does, or is not known yet.
    """

    def __init__(self, names: Sequence[str], variables: Mapping[str, str], program: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.dead: asyncio.Future[str] = self._loop.create_future()
        self.hosts = 0
        self.why_not = ""
        self._is_ready = False
        self._turn = asyncio.Lock()  # it carries out one order at a time
        self._reply: asyncio.Future[bytes] = self._loop.create_future()
        self._idle: asyncio.TimerHandle | None = None
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as undo:
            undo.callback(self._sock.close)
            # Its imports' output is not a model's; the host that follows prints what matters once more.
            nothing = os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, nothing)
            self._process = execute(program, _PROGRAM, [theirs.fileno()], nothing, variables)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
            os.close(nothing)
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._on_reply)
        self._loop.add_reader(self._pidfd, self._on_exit)
        path = tuple(sys.path) if program == sys.executable else ()
        self._sock.send(msgspec.msgpack.encode(Preload(path, tuple(names))))

    def __repr__(self) -> str:
        state = f"{self.hosts} hosts"
        if self.dead.done():
            state = self.dead.result()
        return f"<ForkServer {self.pid}, {state}>"

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    async def fork(self, fds: Sequence[int]) -> ForkedHost:
        """Fork a host process with these descriptors, the first one being its output.

        Raises:
            _ForkRefused: it could not; no host is left.
        """
        self.hosts += 1
        self._stop_idling()
        try:
            async with self._turn:
                if not self._is_ready:
                    await self._await_ready()
                return ForkedHost(await self._order(fds), self._leave)
        except BaseException:
            self._leave()
            raise

    async def _await_ready(self) -> None:
        said = await self._answer(IMPORT_S)
        if said != READY:
            self.why_not = said.decode(errors="replace")
            raise _ForkRefused(self.why_not)
        self._is_ready = True

    async def _order(self, fds: Sequence[int]) -> int:
        with adopting():
            self._reply = self._loop.create_future()
            if self.dead.done():
                raise _ForkRefused(f"it has ended ({self.dead.result()})")
            try:
                socket.send_fds(self._sock, [b"fork"], fds)
            except OSError as error:
                raise _ForkRefused(str(error)) from error
            pid = int(await self._answer(FORK_S))
        if not pid:
            raise _ForkRefused("a process between them has ended before it had forked")
        if not _is_child(pid):
            ForkedHost(pid, self._leave).kill()
            raise _ForkRefused("something in this process keeps orphans from becoming its children")
        return pid

    async def _answer(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._reply
        except TimeoutError as error:
            self.kill()  # an answer that comes later would be taken for that to another order
            raise _ForkRefused(f"no answer within {seconds:g} s") from error

    def kill(self) -> None:
        """End it; its hosts live on."""
        self._stop_idling()
        if not self.dead.done():
            self._process.kill()

    async def close(self) -> None:
        """End it and wait for its end."""
        self.kill()
        await asyncio.wait([self.dead])

    def _leave(self) -> None:
        self.hosts -= 1
        if not self.hosts and not self.dead.done():
            self._stop_idling()
            self._idle = self._loop.call_later(IDLE_S, self.kill)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _on_reply(self) -> None:
        try:
            said = self._sock.recv(1 << 12)
        except (BlockingIOError, ConnectionError):
            return
        if not said:  # it is about to end
            self._loop.remove_reader(self._sock)
        elif not self._reply.done():
            self._reply.set_result(said)

    def _on_exit(self) -> None:
        self._on_reply()
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._sock)
        self._stop_idling()
        os.close(self._pidfd)
        self._sock.close()
        code = self._process.wait()
        self.dead.set_result(f"exit code {code}")
        if not self._reply.done():
            self._reply.set_exception(_ForkRefused(f"it ended with exit code {code}"))
            self._reply.exception()  # nobody may be waiting for it


class ForkServers:
    """All fork servers of a process; none is started before it is needed."""

    def __init__(self) -> None:
        self._servers: dict[_Imports, ForkServer] = {}
        self._inherited = frozenset(os.environ)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ForkServers {list(self._servers.values())!r}>"

    @property
    def pids(self) -> list[int]:
        """Return the process ids of live fork servers."""
        servers = list(self._servers.values())  # other threads ask, too
        return [server.pid for server in servers if not server.dead.done()]

    async def start(self, plan: HostPlan, names: Sequence[str]) -> HostHandles:
        """Start a host as a fork of a process that has imported ``names``, or execute it.

        Raises:
            OSError: out of descriptors, memory or processes; everything has been released.
        """
        starting = asyncio.get_running_loop().create_task(self._start(plan, tuple(names)))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_unwanted)
            raise

    async def close(self) -> None:
        """End all fork servers."""
        self._is_closed = True
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def _start(self, plan: HostPlan, names: tuple[str, ...]) -> HostHandles:
        if self._is_closed:
            return spawn(plan)
        # Frameworks set variables when this process imports them: no reason to import them again elsewhere.
        set_since = os.environ.keys() - self._inherited
        before = {name: value for name, value in plan.variables.items() if name not in set_since}
        # Without its own, ONNX Runtime would start a thread for telemetry, which no fork has.
        variables = {**plan.settings, **before}
        key = _Imports(names, frozenset(variables.items()), str(Path.cwd()), plan.program_path)
        server = self._servers.get(key)
        is_dead = server is not None and server.dead.done() and not server.why_not
        if server is None or is_dead:
            server = self._servers[key] = ForkServer(names, variables, key.program)
        if server.why_not:
            return spawn(plan)
        with ExitStack() as undo, ExitStack() as theirs_too:
            ends = open_ends(plan, undo, theirs_too)
            try:
                process = await server.fork([ends.line.their_output, *ends.passed])
            except _ForkRefused as error:
                _log.warning("[%s] its host process is not forked but executed: %s", plan.manifest.id, error)
            else:
                undo.callback(process.wait)
                undo.callback(process.kill)
                pidfd = os.pidfd_open(process.pid)
                undo.pop_all()
                return ends.handles(process, pidfd)
        return spawn(plan)


def _unwanted(starting: "asyncio.Task[HostHandles]") -> None:
    """End a host whose start was given up while it was under way."""
    if starting.cancelled() or starting.exception() is not None:
        return
    ends = starting.result()
    ends.process.kill()
    ends.process.wait()
    ends.close()
    if ends.side is not None:
        ends.side.close()
