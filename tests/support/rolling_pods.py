"""A rolling update of servers behind a balancer that learns of changes late, as in Kubernetes."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Final

from drain_callers import Ports, Tally, Waiting, http1, http2

_REPLICAS: Final = 3


class LateBalancer(Ports):
    """Ports that new connections go to, as kube-proxy chooses them: changes count after some seconds.

    A connection that is refused is a failure: callers of a Service cannot go elsewhere.
    """

    def __init__(self, ports: list[int], lag_s: float) -> None:
        super().__init__(list(ports))
        self._lag_s = lag_s
        self._turn = 0

    def next(self) -> int:
        """The next one of those that are known now."""
        self._turn += 1
        return self.all[self._turn % len(self.all)]

    def add(self, port: int) -> None:
        """A server is ready."""
        asyncio.get_running_loop().call_later(self._lag_s, self.all.append, port)

    def remove(self, port: int) -> None:
        """A server is being ended."""
        asyncio.get_running_loop().call_later(self._lag_s, self.all.remove, port)

    async def socket(self, tally: Tally) -> socket.socket | None:
        """A connection to the next one; None = the callers shall end."""
        while not tally.is_over:
            sock = socket.socket()
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.next()))
                return sock
            except OSError as error:
                sock.close()
                tally.fail("connect", error)
        return None

    async def connect(self, tally: Tally) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The same as streams."""
        sock = await self.socket(tally)
        if sock is None:
            return None
        return await asyncio.open_connection(sock=sock)


async def rolled(folder: Path, restarts: int, lag_s: float, delay_s: float, callers: int) -> Tally:
    """Return what callers see while one server after the other is replaced.

    Args:
        folder: Has the models in ``repository``; logs are written to it.
        lag_s: Seconds after which the balancer knows that a server is ready or ends.
        delay_s: The servers' drain delay.
        callers: Of each kind.

    Raises:
        AssertionError: a server did not end well.
    """
    tally = Tally()
    pods = [await _started(folder, number, delay_s) for number in range(_REPLICAS)]
    balancer = LateBalancer([pod.port for pod in pods], lag_s)
    ending = []
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(http1(balancer, tally))
                group.create_task(http2(balancer, tally))
            for number in range(restarts):
                if tally.failures:
                    break
                pods.append(await _started(folder, _REPLICAS + number, delay_s))
                balancer.add(pods[-1].port)
                # Both at once: Kubernetes tells the balancers and the pod at the same time.
                balancer.remove(pods[0].port)
                pods[0].signal(signal.SIGTERM)
                ending.append(asyncio.create_task(_ended(pods.pop(0))))
            await asyncio.gather(*ending)
            await asyncio.sleep(lag_s)
            tally.is_over = True
    finally:
        # The callers have ended: none has a request under way.
        for pod in pods:
            pod.signal(signal.SIGKILL)
            await asyncio.to_thread(pod.wait)
    return tally


async def _started(folder: Path, number: int, delay_s: float) -> Waiting:
    pod = Waiting(folder / "repository", folder / f"log{number}", delay_s)
    pod.start()
    await asyncio.to_thread(pod.wait_ready)
    return pod


async def _ended(pod: Waiting) -> None:
    code = await asyncio.to_thread(pod.wait)
    assert code == 0, pod.output()[-2000:]
