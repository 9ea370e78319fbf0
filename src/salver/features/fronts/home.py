"""Home process: starts the fronts, answers what they pass on, and says which models they answer for.

A front answers only while the home process would answer with the same loaded version. Whatever ends that is
told to the fronts before any answer of the home process can show it: an answer waits until every front has
acknowledged, or is killed. So nobody who was told of a change meets an old version afterwards.
"""

import asyncio
import contextlib
import logging
import pickle
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from salver.configuration import ServeConfig
from salver.features import FrontsConfig
from salver.features.fronts.channel import Channel, frame
from salver.features.fronts.granting import Grants
from salver.features.fronts.lent_engines import LentEngine, LentRequests
from salver.features.fronts.messages import (
    Ack,
    Ask,
    Begin,
    Copies,
    FromFront,
    Gone,
    Happened,
    Leave,
    Logged,
    Parting,
    Piece,
    Read,
)
from salver.features.fronts.passing import PassedRequests
from salver.kernel.supervise import Backoff, Supervisor, retry
from salver.lazy import lazy_imports
from salver.parts import Kernel
from salver.transport.doors import App, Receive, Scope, Send
from salver.words.errors import NotReady, Unsupported
from salver.words.events import BatchRan, Event, Served, StateChanged

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily

_LOG: Final = logging.getLogger("salver.fronts")
#: Seconds that a front has to acknowledge the end of a copy, before it is killed.
_ACK_S: Final = 2.0
#: Seconds without a sign of life after which it is killed: nobody answers at its connections.
_SILENT_S: Final = 10.0
#: Seconds in which a front has to start.
_START_S: Final = 60.0
_SERVED: Final = msgspec.msgpack.Decoder(list[Served])
_RAN: Final = msgspec.msgpack.Decoder(list[BatchRan])


class FrontEnded(NotReady):
    """A front has ended."""


class FrontObserver(Protocol):
    """Receiver of what a front tells."""

    def __call__(self, front: "Front", *, is_new: bool = False) -> None:
        """Note a change of ``acked`` or ``ended``; ``is_new`` = its port is open now."""
        ...


class Front:
    """One front, as the home process sees it.

    Args:
        kernel, app: Answer its requests.
        engines: Run what it has decoded.
        told: Called when it acknowledges a list of versions, the first time when its port is open, and when
            it ends.

    Attributes:
        began: When it was started.
        acked: Last epoch of the list that it has acknowledged; -1 = it answers for no version yet.
        asked: When it was sent a list that it has not acknowledged; None = it has.
        ended: Set when its socket is closed.
    """

    def __init__(
        self,
        kernel: Kernel,
        app: App,
        engines: Mapping[int, LentEngine],
        told: "FrontObserver",
    ) -> None:
        self._kernel = kernel
        self._told = told
        self.began = kernel.clock()
        self.acked = -1
        self.asked: float | None = None
        self.ended = asyncio.Event()
        self.channel: Channel[FromFront] = Channel(FromFront, self._hear, self._lost)
        self._requests = PassedRequests(app, self.channel.send)
        self._decoded = LentRequests(engines, self.channel.send)
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Front {self.process.pid if self.process else '-'}, {self._requests!r}>"

    async def start(self, config: Callable[[int], ServeConfig]) -> None:
        """Start the process.

        Args:
            config: Returns its configuration, given the descriptor of its socket.
        """
        mine, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            mine.sendall(frame(pickle.dumps(config(number))))
            self.process = _spawn(number)
        mine.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=mine)

    def _hear(self, message: FromFront) -> None:
        if isinstance(message, Ask):
            self._decoded.begin(message)
        elif isinstance(message, Begin):
            self._requests.begin(message)
        elif isinstance(message, Piece | Gone | Read):
            self._requests.hear(message)
        elif isinstance(message, Leave):
            self._decoded.leave(message)
        elif isinstance(message, Happened):
            emit = self._kernel.bus.emit
            for served in _SERVED.decode(message.served):
                emit(served)
            for ran in _RAN.decode(message.ran):
                emit(ran)
        elif isinstance(message, Ack):
            is_new, self.acked, self.asked = self.acked < 0, message.epoch, None
            self._told(self, is_new=is_new)
        else:
            _log(message)

    def _lost(self) -> None:
        self._requests.abandon()
        self._decoded.abandon()
        self.ended.set()
        self._told(self)

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self.process is not None:
            self.process.kill()

    async def end(self) -> int:
        """Kill the process, and return its exit status."""
        self.channel.close()
        self.kill()
        if self.process is None:
            return 0
        return await asyncio.to_thread(self.process.wait)


class HomeSide:
    """The home process's side: the fronts of a server, and the versions that they answer for.

    Args:
        config: Number of processes.
    """

    def __init__(self, kernel: Kernel, config: FrontsConfig) -> None:
        self._kernel = kernel
        self._count = config.count
        self._app: App | None = None
        self._port = 0
        self._fronts: set[Front] = set()
        self.grants = Grants(kernel, self._send_all)
        self._acks = asyncio.Event()
        self._is_leaving = False
        self._running = Supervisor(_LOG, "a front is not started again")

    def __repr__(self) -> str:
        return f"<HomeSide of {len(self._fronts)} fronts, {self.grants!r}>"

    # -- life --

    def enclose(self, apps: Sequence[App]) -> Sequence[App]:
        """Have answers wait until the fronts know of changes.

        Raises:
            Unsupported: fronts cannot tell what connections tell of their callers.
        """
        if self._kernel.peers is not None:
            raise Unsupported(
                "more than one front and identities by certificates or proxies do not go together",
                field="--fronts",
                fix="Leave out --fronts or --identity-file.",
            )
        fenced = [_Fenced(app, self.settle) for app in apps]
        self._app = fenced[0]
        return fenced

    async def opened(self, ports: Sequence[int]) -> None:
        """Start the fronts."""
        self._port = ports[0]
        if self._count > (cores := self._kernel.terms.cores):
            _LOG.warning("%d fronts on %d cores: more fronts than cores answer no more", self._count, cores)
        for number in range(1, self._count):
            self._running.start(f"front {number}", self._keep(number))

    async def leave(self) -> None:
        """Have the fronts tell their callers to close."""
        self._is_leaving = True
        for front in self._fronts:
            front.channel.send(Parting(is_last=False))

    async def parted(self) -> None:
        """Have the fronts end when they have answered, and wait for that."""
        self._is_leaving = True
        for front in self._fronts:
            front.channel.send(Parting(is_last=True))
        waiting = [asyncio.ensure_future(front.ended.wait()) for front in self._fronts]
        if waiting:
            await asyncio.wait(waiting, timeout=self._kernel.config.front.grace_seconds + 5)
        await self._running.close()
        for task in waiting:
            task.cancel()
        await self.grants.close()

    async def _keep(self, number: int) -> None:
        """Keep a front running."""
        backoff, failures, clock = Backoff(), 0, self._kernel.clock
        began = clock()

        def pause(error: Exception, _: int) -> float | None:
            nonlocal failures, began
            if self._is_leaving:
                return None
            _LOG.warning("front %d: %s; it is started again", number, error)
            failures = backoff.count(failures, clock() - began)
            seconds = backoff.delay(failures)
            began = clock() + seconds
            return seconds

        with contextlib.suppress(FrontEnded):
            await retry(self._run, pause)

    async def _run(self) -> None:
        """Run one front until it ends."""
        assert self._app is not None
        front = Front(self._kernel, self._app, self.grants.engines, self._hear)
        self._fronts.add(front)
        try:
            await front.start(self._config)
            if self._is_leaving:
                front.channel.send(Parting(is_last=True))
            await front.ended.wait()
        finally:
            self._fronts.discard(front)
            code = await asyncio.shield(front.end())
        raise FrontEnded(f"process {front.process and front.process.pid} has ended with {code}")

    def _config(self, descriptor: int) -> ServeConfig:
        """Return the configuration of a front."""
        config = self._kernel.config
        return msgspec.structs.replace(
            config,
            paths=(),
            name="",
            control="none",
            load=(),
            front=msgspec.structs.replace(config.front, port=self._port),
            more=(),
            drain_delay=0.0,
            waits_for_models=False,
            tables={"fronts": {"channel": descriptor}},
        )

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        yield GaugeMetricFamily(
            "salver_fronts", "Processes that answer at the port.", value=1 + len(self._listening())
        )
        models = GaugeMetricFamily(
            "salver_front_models",
            "Models whose requests fronts decode, by where they run.",
            labels=("model", "version", "way"),
        )
        for manifest, way in self.grants.ways():
            models.add_metric((manifest.id.name, manifest.id.version, way), 1)
        yield models

    # -- what they answer for --

    def _hear(self, front: Front, *, is_new: bool = False) -> None:
        """Note that a front has acknowledged a list of versions, or has ended."""
        if is_new:
            self._send(front)
        self._acks.set()
        self.grants.acknowledged(min((each.acked for each in self._listening()), default=self.grants.epoch))

    def observe(self, events: Sequence[Event]) -> None:
        """Look again when a version has changed its state."""
        if any(type(event) is StateChanged for event in events):
            self.grants.look()

    async def tick(self) -> None:
        """Look again at what no event tells: a pinned version, or a front that hangs."""
        self.grants.look()
        now = self._kernel.clock()
        for front in [each for each in self._fronts if each.acked < 0 and now - each.began > _START_S]:
            _LOG.error("%r does not start, and is killed", front)
            front.kill()
        for front in self._listening():
            if front.asked is None:
                front.asked = now
                self._send(front)
            elif now - front.asked > _SILENT_S:
                _LOG.error("%r hangs, and is killed", front)
                front.kill()

    def _listening(self) -> list[Front]:
        """Return the fronts that know versions."""
        return [front for front in self._fronts if front.acked >= 0 and not front.ended.is_set()]

    def _send_all(self) -> None:
        """Tell the fronts of a change; those that do not acknowledge must not hold up an unloading."""
        for front in self._listening():
            self._send(front)
        if self._behind(self.grants.revoked):
            self._running.start_unless_running("await fronts", self.settle)

    def _send(self, front: Front) -> None:
        front.channel.send(Copies(self.grants.epoch, self.grants.pickled()))

    async def settle(self) -> None:
        """Return when no front answers for a version that the home process would not answer with."""
        if not self.grants.are_current():
            self.grants.look()
        while self._behind(self.grants.revoked):
            await self._acknowledged(self.grants.revoked)

    def _behind(self, epoch: int) -> list[Front]:
        """Return the fronts that may still answer for a version that the list of this epoch has not."""
        return [front for front in self._listening() if front.acked < epoch]

    async def _acknowledged(self, epoch: int) -> None:
        try:
            async with asyncio.timeout(_ACK_S):
                while self._behind(epoch):
                    self._acks.clear()
                    await self._acks.wait()
        except TimeoutError:
            for front in self._behind(epoch):
                _LOG.error("%r does not answer, and is killed", front)
                front.kill()
                await front.ended.wait()


class _Fenced:
    """Application whose answers wait until the fronts know of changes.

    Args:
        settle: Waits for that.
    """

    def __init__(self, app: App, settle: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._settle = settle
        self.find_prompt = getattr(app, "find_prompt", None)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle an ASGI request."""
        return self._app(scope, receive, partial(self._send, send))

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await self._settle()
        await send(message)


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    """Start a front."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "salver.front_process", str(descriptor)],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,  # the home process decides on signals from a terminal
    )


def _log(message: Logged) -> None:
    log = logging.getLogger(message.logger)
    if log.isEnabledFor(message.level):
        if isinstance(message.message, dict):
            log.log(message.level, message.message)
        else:
            log.log(message.level, "%s", message.message)
