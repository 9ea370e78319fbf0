"""Server side of a host process that runs a handler.

A :class:`FormHost` is a :class:`~salver.kernel.engine.child.HostProcess` whose model replies to forms: a run
is one message to the host and one back, except for large forms; pieces of answers may come between. It needs
no task, and one timer watches many runs.
"""

import asyncio
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

#: Takes the answers of a run or its error, and the model's own seconds.
Replied = Callable[[Sequence[Answer] | SalverError, float], None]
_LARGE = 1 << 20  # bytes; more are copied on a thread
_NOTHING: Mapping[str, Array] = {}


class FormHost(HostProcess):
    """Host process of a handler."""

    watches_streams = False  # its owner does (HandlerFlow)

    def __init__(self, plan: HostPlan, ends: HostHandles) -> None:
        super().__init__(plan, ends)
        self._piece: Callable[[int, Answer], None] | None = None  # receives pieces of the run
        self._done: Replied | None = None

    def handle(
        self,
        requests: Sequence[InferRequest],
        piece: Callable[[int, Answer], None],
        done: Replied,
        is_lone: bool = False,
    ) -> None:
        """Run requests; small ones begin at once. Only one run at a time is allowed.

        Args:
            piece: Receives pieces that come before the answers, with the index of their request.
            done: Called once, on the event loop.
            is_lone: Whether no other request waits; the host then polls briefly for the next one.

        Raises:
            SalverError: the run could not begin; nothing is called.
        """
        self._raise_if_dead()
        order = None
        if is_small(requests):
            order = self._form_order(requests, is_lone)
        self._piece, self._done, self._heard = piece, done, self._hear_end
        if order is not None:
            self._begin(order)
        else:
            self._told = None
            self._spawn(self._hand_over_forms(requests))

    def reap(self, pid: int) -> None:
        """Tell the host that a process it forked has died."""
        self._tell_now(Reap(pid))

    def _form_order(self, requests: Sequence[InferRequest], is_lone: bool = False) -> Handle:
        try:
            return forms.encode_order(requests, self._ends.requests, is_lone)
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
        self._watch.begin()
        self._tell_now(order)

    def _hear(self, reply: Reply | HostDied) -> None:
        if not isinstance(reply, HandlerPiece):
            super()._hear(reply)
        elif self._piece is not None:
            self._watch.begin()  # a host that sends pieces does not hang
            self._piece(reply.index, forms.decode_answer(reply.said, _NOTHING))

    def _hear_end(self, reply: Reply | HostDied) -> None:
        if not isinstance(reply, HandlerResult):
            try:
                self._as_ran(reply)
            except SalverError as error:
                self._end_run(error)
            return
        blocks = forms.large_parts(reply)
        if not blocks:
            self._end_run(forms.decode_answers(reply, _NOTHING), reply.seconds)
            return
        if sum([block.nbytes for block in blocks]) > _LARGE:
            self._watch.end()  # copying is ours, and not the host's time
            self._spawn(self._read_large(reply, blocks))
            return
        try:
            read = self._read(blocks)
        except SalverError as error:
            self._end_run(error)
        else:
            self._end_run(forms.decode_answers(reply, read), reply.seconds)

    async def _read_large(self, reply: HandlerResult, blocks: tuple[Block, ...]) -> None:
        try:
            read = await self.read(blocks)
        except SalverError as error:
            self._end_run(error)
        else:
            self._end_run(forms.decode_answers(reply, read), reply.seconds)

    def _end_run(self, result: Sequence[Answer] | SalverError, seconds: float = 0.0) -> None:
        self._watch.end()
        self._piece = None
        done, self._done = self._done, None
        if done is not None:
            done(result, seconds)
