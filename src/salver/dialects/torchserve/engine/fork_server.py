"""Start of the host processes of a handler's workers.

One that has loaded the model forks the others where that is safe
(:mod:`salver.dialects.torchserve.engine.sharing`): they share its memory and start at once, also after a
death. Otherwise they share what it has imported, where that is safe, and each loads the model itself.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import msgspec

from salver.dialects.torchserve.engine.form_host import FormHost
from salver.dialects.torchserve.engine.sharing import exit_code_of
from salver.kernel.engine.control import Fork, ForkResult
from salver.kernel.engine.spawn import HostHandles, HostPlan, open_line
from salver.words.errors import LoadFailed, SalverError

_log = logging.getLogger(__name__)
#: Program of handlers' hosts.
_PROGRAM: Final = "salver.dialects.torchserve.engine.host_forms:run"
_FORK_S = 20.0  # longer than it takes to fork the largest model


class ForkedProcess:
    """Process that another one has forked, and reaps on order."""

    def __init__(self, pid: int, reap: Callable[[int], None]) -> None:
        self.pid = pid
        self._reap = reap

    def wait(self) -> int:
        """See :class:`~salver.kernel.engine.spawn.Process`."""
        code = exit_code_of(self.pid)
        self._reap(self.pid)
        return code

    def kill(self) -> None:
        """See :class:`~salver.kernel.engine.spawn.Process`."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Starts hosts by one plan, as forks of one of them where the plan says ``forks`` and that is safe."""

    def __init__(self, plan: HostPlan) -> None:
        self._plan = msgspec.structs.replace(plan, forks=False, program=_PROGRAM)
        self._forks = plan.forks
        self._host: FormHost | None = None  # forks the others
        self._imports: tuple[str, ...] = ()  # shared modules, if the model itself cannot be shared
        self._turn = asyncio.Lock()  # for starting the host that forks
        self._order = asyncio.Lock()  # for orders to it: it answers one at a time

    def __repr__(self) -> str:
        return f"<ForkServer {self._host!r}>"

    @property
    def pid(self) -> int:
        """Id of the process that forks; -1 = none."""
        if self._host is None or self._host.dead.done():
            return -1
        return self._host.pid

    async def launch(self, gpu: int | None = None) -> FormHost:
        """Start one more host.

        Args:
            gpu: GPU to use; the host loads the model by itself then, since GPU memory cannot be shared.

        Raises:
            LoadFailed: it could not be started, or the model could not be loaded.
        """
        if gpu is not None:
            options = msgspec.structs.replace(self._plan.options, gpu=gpu)
            return await FormHost.launch(msgspec.structs.replace(self._plan, options=options))
        async with self._turn:  # several workers start at once, and only one may become the server
            if self._forks and self.pid < 0 and (lone := await self._begin()) is not None:
                return lone
        if self._forks:
            return await self._launch_fork()
        return await FormHost.launch(self._plan)

    async def _begin(self) -> FormHost | None:
        """Start the host that forks the others; return it where it cannot, as a worker of its own."""
        model = self._plan.manifest.id
        host = await FormHost.launch(msgspec.structs.replace(self._plan, forks=True, imports=self._imports))
        if not host.loaded.alone:
            self._host = host
            return None
        if self._imports:
            _log.info("[%s] its workers share no memory: %s", model, host.loaded.alone)
            self._forks = False
            await host.close()
            return None
        self._imports, self._forks = host.loaded.imports, bool(host.loaded.imports)
        what = "imports but no model" if self._forks else "no memory"
        _log.info("[%s] its workers share %s: %s", model, what, host.loaded.alone)
        return host

    async def close(self) -> None:
        """Stop the host that forks; a new one is started when it is needed again."""
        host, self._host = self._host, None
        if host is not None:
            await host.close()

    async def _launch_fork(self) -> FormHost:
        """Fork a host, and keep track of it even if the caller is cancelled meanwhile."""
        fork = asyncio.get_running_loop().create_task(self._fork())
        try:
            return await asyncio.shield(fork)
        except asyncio.CancelledError:
            fork.add_done_callback(_unwanted)
            raise

    async def _fork(self) -> FormHost:
        name = self._plan.manifest.id.name
        if (server := self._host) is None:
            raise LoadFailed(f"the fork server of model '{name}' has been stopped")
        with ExitStack() as undo, ExitStack() as theirs_too:
            try:
                line = open_line(name, undo, theirs_too)
                fds = [*line.passed, line.their_output]
                async with self._order:  # held to the end even if the caller has left
                    pid = await self._ordered(server, fds)
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                raise LoadFailed(f"no worker could be forked for model '{name}': {error}") from error
            undo.pop_all()  # the descriptors now belong to the host
        process = ForkedProcess(pid, server.reap)
        return await FormHost.take_over(
            self._plan, HostHandles(process, line.sock, line.output, pidfd, line.arenas)
        )

    async def _ordered(self, server: FormHost, fds: list[int]) -> int:
        name = self._plan.manifest.id.name
        try:
            async with asyncio.timeout(_FORK_S):
                reply = await server.ask(Fork(), fds)
        except TimeoutError:
            server.kill(f"it did not fork within {_FORK_S:g} s")
            raise LoadFailed(f"no worker of model '{name}' was forked within {_FORK_S:g} s") from None
        except SalverError as error:
            raise LoadFailed(f"the fork server of model '{name}' died") from error
        if not isinstance(reply, ForkResult):
            raise server.broken(reply)
        if reply.pid <= 1:  # a signal to -1, 0 or 1 would reach other processes
            raise LoadFailed(f"no worker could be forked for model '{name}': {reply.why}")
        return reply.pid


def _unwanted(fork: "asyncio.Task[FormHost]") -> None:
    if not fork.cancelled() and fork.exception() is None:
        fork.result().kill("it is no longer wanted")
