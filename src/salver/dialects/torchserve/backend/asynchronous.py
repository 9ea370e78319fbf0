"""Handlers that are coroutines (``asyncCommunication``).

Each request is a run of its own on one event loop. No wire and no process is known here.
"""

import asyncio
import copy
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from salver.backends.protocol import Answer, Listener
from salver.dialects.torchserve.backend.answering import PieceSocket, begin, failure_replies, finish
from salver.dialects.torchserve.backend.memory import give_back
from salver.dialects.torchserve.backend.opening import Handler
from salver.dialects.torchserve.backend.replies import Replies
from salver.words.errors import ModelFailed
from salver.words.handlers import SIGNATURE, Form, as_answer, form_of
from salver.words.messages import InferRequest
from salver.words.tensor import Array

#: Replies to send, and whether they are the last ones.
_Outgoing = asyncio.Queue[tuple[Replies, bool]]
_SENDERS = 256


class AsyncHandlerModel:
    """A handler that is awaited.

    Args:
        is_decoded: Whether parts are decoded by their content types.
    """

    signature = SIGNATURE

    def __init__(self, handler: Handler, is_decoded: bool) -> None:
        self._handler = handler
        self._is_decoded = is_decoded
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="salver-handler", daemon=True)
        self._senders = ThreadPoolExecutor(_SENDERS, "salver-send")
        self._thread.start()

    def __repr__(self) -> str:
        return f"<AsyncHandlerModel {self._handler.context.model_name}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        raise ModelFailed(f"model '{self._handler.context.model_name}' answers forms alone")

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        """See :class:`~salver.backends.protocol.StreamModel`."""
        for request, listener in zip(requests, listeners, strict=True):
            named = request.id or str(uuid.uuid4()), form_of(request)
            asyncio.run_coroutine_threadsafe(self._answer(named, listener), self._loop)

    async def _answer(self, request: tuple[str, Form], listener: Listener) -> None:
        outgoing: _Outgoing = asyncio.Queue()
        sending = asyncio.create_task(self._send(outgoing, listener))

        def take(replies: Replies, is_last: bool = False) -> None:
            self._loop.call_soon_threadsafe(outgoing.put_nowait, (replies, is_last))  # any thread may send

        context = copy.copy(self._handler.context)  # runs overlap, and each has requests of its own
        context.metrics = copy.copy(context.metrics)
        pieces = PieceSocket(take)
        run = begin(context, [request], self._is_decoded, pieces)
        try:
            replies = finish(context, run, await self._handler.entry(run.data, context))
        except BaseException as error:
            replies = _failed(error, run.ids)
        pieces.close()
        ((id, reply),) = replies
        take([(id, replace(reply, metrics=self._handler.take_metrics()))], True)
        await sending

    async def _send(self, outgoing: "_Outgoing", listener: Listener) -> None:
        """Send pieces in order, on threads, so that slow readers delay only their own request."""
        is_last = False
        try:
            while not is_last:
                replies, is_last = await outgoing.get()
                for _, reply in replies:
                    answer = Answer(*as_answer(reply))
                    await self._loop.run_in_executor(self._senders, listener.send, answer, is_last)
        finally:
            listener.end()

    def on_idle(self) -> None:
        """See :class:`~salver.backends.protocol.IdleAwareModel`."""
        give_back()

    def close(self) -> None:
        """Stop the loop with everything that runs on it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._senders.shutdown(wait=False, cancel_futures=True)
        self._loop.close()


def _failed(error: BaseException, ids: dict[int, str]) -> Replies:
    try:
        return failure_replies(error, ids)
    except BaseException as end:  # sys.exit() in the thread of an event loop does not end the worker
        traceback.print_exception(end)
        sys.stdout.flush()
        os._exit(1)
