"""Where do the host processes of a handler's workers come from?

From one that has loaded the model and forks the others, where that is safe
(:mod:`salver.dialects.torchserve.engine.sharing`):
they share its memory, and are there at once, the first time as after a death. Else they share what it has
imported, where that is safe, and each loads the model itself. It knows neither requests nor when workers are
wanted.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress

import msgspec

from salver.dialects.torchserve.engine.form_host import FormHost
from salver.dialects.torchserve.engine.sharing import exit_code_of
from salver.kernel.engine.control import Fork, Forked
from salver.kernel.engine.spawn import Ends, HostPlan, open_line
from salver.words.errors import LoadFailed, SalverError

_log = logging.getLogger(__name__)
_FORK_S = 20.0  # longer than it takes to fork the largest model


class ForkedProcess:
    """A process that another one has forked, and reaps when it is told to."""

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


class Mother:
    """Starts hosts by one plan; by its ``bears``, they come from one of them where they can."""

    def __init__(self, plan: HostPlan) -> None:
        self._plan = msgspec.structs.replace(plan, bears=False)
        self._bears = plan.bears
        self._host: FormHost | None = None  # which forks the others
        self._imports: tuple[str, ...] = ()  # all that they share, of a model that cannot be shared
        self._turn = asyncio.Lock()  # to have one that forks
        self._order = asyncio.Lock()  # to tell it to: it answers one order at a time

    def __repr__(self) -> str:
        return f"<Mother {self._host!r}>"

    @property
    def pid(self) -> int:
        """Of the process that forks; -1 = there is none."""
        return self._host.pid if self._host is not None and not self._host.dead.done() else -1

    async def launch(self, gpu: int | None = None) -> FormHost:
        """One more.

        Args:
            gpu: That it uses; it loads the model by itself then, since what lies on a GPU cannot be shared.

        Raises:
            LoadFailed: it could not be started, or the model could not be loaded.
        """
        if gpu is not None:
            options = msgspec.structs.replace(self._plan.options, gpu=gpu)
            return await FormHost.launch(msgspec.structs.replace(self._plan, options=options))
        async with self._turn:
            if self._bears and self.pid < 0 and (lone := await self._begin()) is not None:
                return lone
        if self._bears:
            return await self._born()
        return await FormHost.launch(self._plan)

    async def _begin(self) -> FormHost | None:
        """Start the one that forks the others; or one that is alone, since it has what they cannot have."""
        model = self._plan.manifest.id
        host = await FormHost.launch(msgspec.structs.replace(self._plan, bears=True, imports=self._imports))
        if not host.alone:
            self._host = host
            return None
        if self._imports:
            _log.info("[%s] its workers share no memory: %s", model, host.alone)
            self._bears = False
            await host.close()
            return None
        self._imports, self._bears = host.imports, bool(host.imports)
        what = "what is imported, and no model" if self._bears else "no memory"
        _log.info("[%s] its workers share %s: %s", model, what, host.alone)
        return host

    async def close(self) -> None:
        """Let go what the others came from; another one comes when it is wanted again."""
        host, self._host = self._host, None
        if host is not None:
            await host.close()

    async def _born(self) -> FormHost:
        """Fork, whether or not anybody waits for it: a process that is there has to be known."""
        birth = asyncio.get_running_loop().create_task(self._fork())
        try:
            return await asyncio.shield(birth)
        except asyncio.CancelledError:
            birth.add_done_callback(_unwanted)
            raise

    async def _fork(self) -> FormHost:
        name = self._plan.manifest.id.name
        if (mother := self._host) is None:
            raise LoadFailed(f"the process from which workers of model '{name}' come has been let go")
        with ExitStack() as undo, ExitStack() as theirs_too:
            try:
                line = open_line(name, undo, theirs_too)
                fds = [*line.passed, line.their_output]
                async with self._order:  # held to its end, though whoever wants the worker has left
                    pid = await self._ordered(mother, fds)
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                raise LoadFailed(f"no worker could be forked for model '{name}': {error}") from error
            undo.pop_all()
        process = ForkedProcess(pid, mother.reap)
        return await FormHost.take_over(self._plan, Ends(process, line.sock, line.output, pidfd, line.arenas))

    async def _ordered(self, mother: FormHost, fds: list[int]) -> int:
        name = self._plan.manifest.id.name
        try:
            async with asyncio.timeout(_FORK_S):
                reply = await mother.ask(Fork(), fds)
        except TimeoutError:
            mother.kill(f"it did not fork within {_FORK_S:g} s")
            raise LoadFailed(f"no worker of model '{name}' was forked within {_FORK_S:g} s") from None
        except SalverError as error:
            raise LoadFailed(f"the process from which workers of model '{name}' come died") from error
        if not isinstance(reply, Forked):
            raise mother.broken(reply)
        if reply.pid <= 1:  # a signal to -1, 0 or 1 would reach others
            raise LoadFailed(f"no worker could be forked for model '{name}': {reply.why}")
        return reply.pid


def _unwanted(birth: "asyncio.Task[FormHost]") -> None:
    if not birth.cancelled() and birth.exception() is None:
        birth.result().kill("it is not wanted any more")
