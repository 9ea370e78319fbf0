"""Decoding of large bodies without blocking the event loop.

Bodies up to :data:`LARGE` bytes are decoded on the loop, which takes 5 ms at most, and so is larger JSON with
few values. Others go to a child process (``decode_worker.py``), or to a thread if their tensors are raw and
only viewed. Bodies up to :data:`MEDIUM` bytes and larger ones have a lane each, so that a huge body does not
delay one of a megabyte. A lane has one process, started with its first body, and decodes one body at a time.
"""

import asyncio
import functools
import logging
import math
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from salver.encoding.bodies import HttpBody, Message
from salver.kernel.serving.ports import Codec
from salver.lazy import lazy_imports
from salver.machine import memory_bytes
from salver.words.errors import DeadlineExceeded, SalverError, TooLarge
from salver.words.messages import InferRequest, Signature

with lazy_imports():
    from salver.kernel.serving import decode_worker


_LOG = logging.getLogger("salver.decoding")
#: Bytes up to which even the worst body takes a few milliseconds.
LARGE: Final = 1 << 16
MEDIUM: Final = 4 << 20
#: Most nanoseconds to decode a list, an object and a string, by the character that begins or ends it; each
#: byte adds one. The child process adds 0.4 ms or more: 100 kB of numbers took a third longer there.
_COSTS: Final = ((ord("["), 460), (ord("{"), 460), (ord('"'), 230))
_COMMA: Final = ord(",")
#: The same for a value, since simdjson cannot read some of them and another parser then reads the whole body;
#: and for a byte of a number with more digits than a double has, which simdjson reads slowly.
_VALUE: Final = 60
_LONG_BYTE: Final = 31
_MOST_DIGITS: Final = 22  # including sign, point, comma and blank
_MOST_NS: Final = 5_000_000
_MOST_COUNTED: Final = 5 << 18  # bytes; counting the marks of 1 MiB takes 0.6 ms
#: Seconds that one body may take; 64 MB of numbers take less than one second.
PATIENCE_S: Final = 20.0
_RUN: Final = "from salver.kernel.serving.decode_worker import main; main()"
_START_S: Final = 60.0
#: Bytes sent or received before the event loop gets its turn: one call for 60 MB would go on for 50 ms or
#: more, as long as the process keeps up.
_STEP: Final = 1 << 18
#: Weight of the newest body in the average pace.
_NEWEST: Final = 0.2
_LEAST_MEMORY: Final = 1 << 30
_MOST_MEMORY: Final = 4 << 30
_ResultT = TypeVar("_ResultT")
_BodyT = TypeVar("_BodyT")


def _memory_for_one() -> int:
    """Return the bytes that decoding one body may take: a quarter of the memory, between 1 and 4 GiB."""
    return min(max(memory_bytes() // 4, _LEAST_MEMORY), _MOST_MEMORY)


class Decoders:
    """Two child processes that decode, with their queues.

    Args:
        patience: Seconds after which decoding a body is aborted; three times as many if it hardly got a core.
        memory: Bytes of memory that decoding a body may take; 0 = by the machine's memory.
    """

    def __init__(self, patience: float = PATIENCE_S, memory: int = 0) -> None:
        memory = memory or _memory_for_one()
        self._lanes = [_Lane(patience, memory), _Lane(patience, memory)]

    def __repr__(self) -> str:
        return f"<Decoders {self._lanes}>"

    async def decode(
        self,
        codec: Codec[_BodyT, object],
        body: _BodyT,
        signature: Signature,
        seconds: float | None = None,
        check: Callable[[float], None] | None = None,
    ) -> InferRequest:
        """Return ``codec.decode(body, signature)``, run elsewhere if that may take long.

        Args:
            seconds: Time limit of the caller; None = no limit.
            check: Called with the seconds that this is expected to take if others are decoded first, else 0;
                raises SalverError if that is too long.

        Raises:
            SalverError: as the codec; TooLarge: it takes too much memory or time.
            DeadlineExceeded: it was not done in time.
        """
        if signature.takes_forms:  # forms are split in short steps
            return await asyncio.to_thread(codec.decode, body, signature)
        weight = codec.weigh(body)
        if not weight:
            return codec.decode(body, signature)
        if not isinstance(body, HttpBody | Message):  # parsed already; only tensors are copied
            return await asyncio.to_thread(codec.decode, body, signature)
        text = b""
        if isinstance(body, HttpBody):
            text = body.body[:weight]
        if len(text) > LARGE and _is_quick(text):
            return codec.decode(body, signature)
        if weight <= LARGE:  # the rest is viewed, or read string by string
            return await asyncio.to_thread(codec.decode, body, signature)
        data = body.body if isinstance(body, HttpBody) else body.message
        light = msgspec.structs.replace(body, **{_name_of(body): b""})
        if check is not None:
            check(self._lane(data).delay(len(data)))
        return await self.call(_decode, data, codec, light, signature, seconds=seconds)

    def _lane(self, data: bytes) -> "_Lane":
        return self._lanes[len(data) > MEDIUM]

    async def call(
        self, function: Callable[..., _ResultT], data: bytes, *given: Any, seconds: float | None = None
    ) -> _ResultT:
        """Return ``function(data, *given)``, run in a child process; all of it must be picklable.

        Raises:
            SalverError: as the function; TooLarge: it takes too much memory or time.
            DeadlineExceeded: it was not done in time.
        """
        lane = self._lane(data)
        work = pickle.dumps((function, given), 5)
        # Not cancelled with its caller: after half a message the process would have to be killed.
        doing = lane.begin(work, data)
        doing.add_done_callback(_seen)
        try:
            async with asyncio.timeout(seconds):
                result: _ResultT = await asyncio.shield(doing)
                return result
        except SalverError as error:
            _leave_frames(error)
            raise
        except TimeoutError:
            raise DeadlineExceeded("the request was not decoded before its deadline") from None
        finally:
            if lane.has_not_begun(doing):
                doing.cancel()
            del doing  # breaks the cycle through the error's frames

    def close(self) -> None:
        """End the processes."""
        for lane in self._lanes:
            lane.end()


def _is_quick(text: bytes) -> bool:
    """Return whether JSON takes no longer than the worst body of LARGE bytes, judged by its characters."""
    if len(text) > _MOST_COUNTED:
        return False
    letters = np.frombuffer(text, np.uint8)
    costs = sum(cost * int(np.count_nonzero(letters == mark)) for mark, cost in _COSTS)
    ends = np.flatnonzero(letters == _COMMA)
    lengths = np.diff(ends, prepend=0, append=len(text))
    costs += len(ends) * _VALUE + int(lengths[lengths > _MOST_DIGITS].sum()) * _LONG_BYTE
    return costs + len(text) <= _MOST_NS


def _name_of(body: HttpBody | Message) -> str:
    if isinstance(body, HttpBody):
        return "body"
    return "message"


def _decode(data: bytes, codec: Any, light: HttpBody | Message, signature: Signature) -> InferRequest:
    body = msgspec.structs.replace(light, **{_name_of(light): data})
    request: InferRequest = codec.decode(body, signature)
    return request


def _leave_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes, whose frames hold the body in a cycle."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__context__


def _seen(doing: "asyncio.Future[Any]") -> None:
    if not doing.cancelled():
        doing.exception()


class _Lane:
    """One process, started on demand, with the callers that wait for it."""

    def __init__(self, patience: float, memory: int) -> None:
        self._patience = patience
        self._memory = memory
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._served: asyncio.Task[Any] | None = None
        self._given = 0  # bytes of the bodies that are being decoded or wait
        self._pace = 0.0  # seconds for a byte, averaged

    def __repr__(self) -> str:
        return f"<_Lane {self._process.pid if self._process else 'not started'}>"

    def has_not_begun(self, doing: "asyncio.Future[Any]") -> bool:
        return not doing.done() and self._served is not doing

    def delay(self, size: int) -> float:
        """Return the seconds until a body of so many bytes is decoded; 0 = it is the next one."""
        if not self._given:
            return 0.0
        return (self._given + size) * self._pace

    def begin(self, work: bytes, data: bytes) -> "asyncio.Future[Any]":
        """Begin to decode a body, or to wait for others."""
        self._given += len(data)
        doing = asyncio.ensure_future(self._decoded(work, data))
        doing.add_done_callback(functools.partial(self._ended, len(data)))
        return doing

    def _ended(self, size: int, doing: "asyncio.Future[Any]") -> None:
        self._given -= size

    async def _decoded(self, work: bytes, data: bytes) -> Any:
        text, buffers = await self._ask(work, data)
        if len(text) < LARGE:
            told = pickle.loads(text, buffers=buffers)
        else:
            told = await asyncio.to_thread(pickle.loads, text, buffers=buffers)
        return _result(*told)

    async def _ask(self, work: bytes, data: bytes) -> tuple[memoryview, Sequence[Any]]:
        async with self._turn:
            self._served = asyncio.current_task()
            try:
                sock = self._socket or await self._start()
                began = monotonic()
                answer = await self._in_time(_exchange(sock, work, data))
                pace = (monotonic() - began) / max(len(data), 1)
                self._pace += (pace - self._pace) * (_NEWEST if self._pace else 1.0)
                return answer
            except TimeoutError:
                self.end()
                raise TooLarge(f"decoding the request takes more than {self._patience:g} s") from None
            except (OSError, EOFError):  # killed, most likely because it ran out of memory
                self.end()
                raise TooLarge("decoding the request takes more memory than one request may have") from None
            except BaseException:
                self.end()
                raise
            finally:
                self._served = None

    async def _in_time(self, exchange: Coroutine[Any, Any, _ResultT]) -> _ResultT:
        """Await an answer for as long as one body may take; three times as long if it hardly got a core."""
        loop = asyncio.get_running_loop()
        assert self._process is not None
        process, began = self._process.pid, loop.time()
        worked = _worked_s(process)
        async with asyncio.timeout(self._patience) as limit:

            def prolong() -> None:
                if _worked_s(process) - worked < self._patience / 2:
                    limit.reschedule(began + 3 * self._patience)

            nearly_over = loop.call_later(0.95 * self._patience, prolong)
            try:
                return await exchange
            finally:
                nearly_over.cancel()

    async def _start(self) -> socket.socket:
        mine, other = socket.socketpair()
        mine.setblocking(False)
        with other:
            command = [sys.executable, "-P", "-c", _RUN, str(other.fileno())]
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                [*command, str(self._memory)],
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
                start_new_session=True,  # an interrupt at the terminal must reach only the server
            )
        self._socket = mine
        async with asyncio.timeout(_START_S):
            await _exchange(mine, pickle.dumps((len, ()), 5), b"")  # start-up must not count as decoding time
        _LOG.debug("process %d decodes large requests", self._process.pid)
        return mine

    def end(self) -> None:
        """Kill the process; the next body starts a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _worked_s(pid: int) -> float:
    """Return the seconds that a process has had a core; infinity where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _result(result: Any, error: SalverError | None, about: str | None) -> Any:
    if error is not None:
        error.about = about
        raise error
    return result


async def _exchange(sock: socket.socket, work: bytes, data: bytes) -> tuple[memoryview, Sequence[Any]]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, decode_worker.WORK.pack(len(work), len(data)) + work)
    whole = memoryview(data)
    for at in range(0, len(data), _STEP):
        await loop.sock_sendall(sock, whole[at : at + _STEP])
        await asyncio.sleep(0)
    reply, one = decode_worker.REPLY, decode_worker.SIZE
    length, count = reply.unpack(await _received(sock, reply.size))
    sizes = [size for (size,) in one.iter_unpack(await _received(sock, count * one.size))]
    return await _received(sock, length), [await _received(sock, size) for size in sizes]


async def _received(sock: socket.socket, size: int) -> memoryview:
    loop = asyncio.get_running_loop()
    whole = np.empty(size, np.uint8).data  # unlike bytearray, not filled with zeros first
    at = 0
    while at < size:
        count = await loop.sock_recv_into(sock, whole[at : at + _STEP])
        if not count:
            raise EOFError
        at += count
        if at < size:
            await asyncio.sleep(0)
    return whole
