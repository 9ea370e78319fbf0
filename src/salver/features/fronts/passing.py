"""Requests of a front, given to the application of the home process."""

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

import msgspec

from salver.features.fronts.exchange import PassedExchange
from salver.features.fronts.messages import Begin, Failed, Gone, Piece, Read
from salver.features.fronts.passed import PassedRequest
from salver.transport.budget import COUNTED
from salver.transport.doors import App
from salver.transport.exchange import Prompt, PromptFinder
from salver.transport.http1_head import Head

_LOG: Final = logging.getLogger("salver.fronts")
#: Heads that are remembered, with the functions that answer their requests.
_MOST_HEADS: Final = 512


class PassedRequests:
    """Requests of one front that are being answered.

    Args:
        app: Application of the port.
        send: Sends a message to the front.
    """

    def __init__(self, app: App, send: Callable[[msgspec.Struct], None]) -> None:
        self._app = app
        self._send = send
        self._find: PromptFinder | None = getattr(app, "find_prompt", None)
        self._heads: dict[object, Head] = {}
        self._open: dict[int, PassedRequest] = {}

    def __repr__(self) -> str:
        return f"<PassedRequests, {len(self._open)} open>"

    def begin(self, begin: Begin) -> None:
        """Begin to answer a request, without a task where that is possible."""
        request = PassedRequest(begin, self._send, self._forget)
        self._open[begin.number] = request
        try:
            if begin.more or len(begin.body) > COUNTED or not self._ask(begin, request):
                request.start(partial(request.ask, self._app))
        except Exception:  # which would end the front's socket
            _LOG.exception("the application failed")
            request.finish(Failed(begin.number))

    def _ask(self, begin: Begin, request: PassedRequest) -> bool:
        """Answer without a task; return False if one is needed."""
        head = self._head(begin)
        prompt = self._prompt(head)
        if prompt is None:
            return False
        exchange = PassedExchange(head, begin.body, request)
        exchange.arrival, exchange.lag = begin.arrival or monotonic(), begin.lag
        if not prompt(exchange):
            return False
        if not exchange.is_whole:
            request.on_gone = exchange.on_gone
        return True

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)

    def _head(self, begin: Begin) -> Head:
        key = begin.method, begin.path, begin.query, begin.version, begin.spelled
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            told = dict(begin.headers).get(b"content-length", b"")
            length = int(told) if told.isdigit() else -1
            begun = begin.method, begin.path, begin.query, begin.version, begin.headers, begin.spelled
            head = self._heads[key] = Head(*begun, length, keeps=True, expects=False, notes={})
        return head

    def _prompt(self, head: Head) -> Prompt | None:
        prompt: Prompt | None = head.notes.get(self)
        if prompt is None and self._find is not None:
            prompt = self._find(head)
            if prompt is not None:
                head.notes[self] = prompt
        return prompt

    def hear(self, message: Piece | Gone | Read) -> None:
        """Take a message about a request; it may have ended."""
        request = self._open.get(message.number)
        if request is None:
            return
        if isinstance(message, Gone):
            self._forget(message.number)
            request.leave()
        else:
            request.hear(message)

    def abandon(self) -> None:
        """Cancel all requests, because their front is gone."""
        gone, self._open = self._open, {}
        for request in gone.values():
            request.leave()
