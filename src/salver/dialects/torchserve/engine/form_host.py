"""How is a host process asked that runs a handler?

:class:`FormHost` is a :class:`~salver.kernel.engine.child.HostProcess` whose model replies to forms: a run
is one
message there and one back, but for what is large, and pieces of its answers may come between. It needs no
task, and one timer watches over many runs.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine import forms
from salver.kernel.engine.child import HostProcess, is_small, size_of
from salver.kernel.engine.control import Handle, HandlerPiece, HandlerResult, Reap, Reply
from salver.kernel.engine.shm import Block
from salver.kernel.engine.spawn import HostHandles, HostPlan
from salver.words.errors import HostDied, SalverError
from salver.words.messages import InferRequest
from salver.words.tensor import Array

#: Takes what a run gave, or why it gave nothing, and the model's own seconds.
Replied = Callable[[Sequence[Answer] | SalverError, float], None]
_LARGE = 1 << 20  # bytes; longer ones are copied beside the event loop
_NOTHING: Mapping[str, Array] = {}


class FormHost(HostProcess):
    """One child with a handler."""

    watches_streams = False  # its owner does (salver.dialects.torchserve.engine.flow)

    def __init__(self, plan: HostPlan, ends: HostHandles) -> None:
        super().__init__(plan, ends)
        self._bit: Callable[[int, Answer], None] | None = None  # who is to be told of pieces of the run
        self._done: Replied | None = None

    def handle(
        self,
        requests: Sequence[InferRequest],
        piece: Callable[[int, Answer], None],
        done: Replied,
        is_lone: bool = False,
    ) -> None:
        """Have it reply to requests, begun at once where they are small; never two runs at a time.

        Args:
            piece: Told of pieces that come before the answers, and whose they are.
            done: Called once, on the event loop.
            is_lone: Nobody else waits; the host stays awake a little for what comes next.

        Raises:
            SalverError: it could not be begun, and nobody is called.
        """
        self._raise_if_dead()
        if is_small(requests):
            order = self._form_order(requests, is_lone)
            self._bit, self._done, self._heard = piece, done, self._hear_end
            self._begin(order)
        else:
            self._bit, self._done, self._heard, self._told = piece, done, self._hear_end, None
            self._spawn(self._hand_over_forms(requests))

    def reap(self, pid: int) -> None:
        """One that it has borne is dead."""
        self._tell_now(Reap(pid))

    def _form_order(self, requests: Sequence[InferRequest], is_lone: bool = False) -> Handle:
        try:
            return forms.order(requests, self._ends.requests, is_lone)
        except (OSError, ValueError) as error:
            raise self._no_memory(size_of(requests), error) from error

    async def _hand_over_forms(self, requests: Sequence[InferRequest]) -> None:
        try:
            order = await asyncio.to_thread(self._form_order, requests)
        except SalverError as error:
            if not self.dead.done():
                self._heard = None
                self._end_run(error)
        else:
            self._begin(order)

    def _begin(self, order: Handle) -> None:
        self._watch_from_now()
        self._tell_now(order)

    def _hear(self, reply: Reply | HostDied) -> None:
        if not isinstance(reply, HandlerPiece):
            super()._hear(reply)
        elif self._bit is not None:
            self._watch_from_now()  # as long as it says something it does not hang
            self._bit(reply.index, forms.answer(reply.said, _NOTHING))

    def _hear_end(self, reply: Reply | HostDied) -> None:
        if not isinstance(reply, HandlerResult):
            try:
                self._as_ran(reply)
            except SalverError as error:
                self._end_run(error)
            return
        blocks = forms.blocks(reply)
        if sum([block.nbytes for block in blocks]) > _LARGE:
            self._hangs_at = math.inf
            self._spawn(self._read_large(reply, blocks))
            return
        try:
            read = self._read(blocks) if blocks else _NOTHING
        except SalverError as error:
            self._end_run(error)
        else:
            self._end_run(forms.answers(reply, read), reply.seconds)

    async def _read_large(self, reply: HandlerResult, blocks: tuple[Block, ...]) -> None:
        try:
            read = await self.read(blocks)
        except SalverError as error:
            self._end_run(error)
        else:
            self._end_run(forms.answers(reply, read), reply.seconds)

    def _end_run(self, said: Sequence[Answer] | SalverError, seconds: float = 0.0) -> None:
        self._hangs_at = math.inf
        self._bit = None
        done, self._done = self._done, None
        if done is not None:
            done(said, seconds)
