"""Engines of the home process that run what fronts have decoded."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from salver.features.fronts.messages import Ask, Leave, Outputs, Refusal
from salver.features.fronts.tensors import pickled, request_of, sent
from salver.kernel.engine.delivery import nothing
from salver.kernel.serving.ports import Lease
from salver.kernel.serving.servable import Servable
from salver.words.errors import Internal, NotReady, SalverError
from salver.words.messages import ANYBODY, InferResponse

_LOG: Final = logging.getLogger("salver.fronts")


class LentEngine:
    """Engine of one version, with a lease that keeps it loaded while fronts may send requests.

    Args:
        key: Its number in messages.
    """

    def __init__(self, key: int, lease: Lease[Servable]) -> None:
        self.key = key
        self.model = lease.id.name
        post = lease.servable.capabilities.post
        assert post is not None
        self.post = post
        self._lease = lease
        self._open = 0
        self._is_over = False

    def __repr__(self) -> str:
        return f"<LentEngine {self.key} of {self._lease.id}, {self._open} open>"

    def enter(self) -> None:
        """Count a request."""
        self._open += 1

    def leave(self) -> None:
        """Count the end of a request."""
        self._open -= 1
        if self._is_over and not self._open:
            self._lease.release()

    def end(self) -> None:
        """Let the version be unloaded when its last request has ended: no more will come."""
        if not self._is_over:
            self._is_over = True
            if not self._open:
                self._lease.release()


class LentRequests:
    """Requests of one front that engines of this process run.

    Args:
        engines: Engines by their keys.
        send: Sends a message to the front.
    """

    def __init__(self, engines: Mapping[int, LentEngine], send: Callable[[msgspec.Struct], None]) -> None:
        self._engines = engines
        self._send = send
        self._open: dict[int, tuple[LentEngine, Callable[[], None]]] = {}

    def __repr__(self) -> str:
        return f"<LentRequests, {len(self._open)} open>"

    def begin(self, ask: Ask) -> None:
        """Have an engine run a request."""
        number, engine = ask.number, self._engines.get(ask.engine)
        if engine is None:
            self._send(Refusal(number, pickled(NotReady("the model's version is not loaded any more"))))
            return
        engine.enter()
        self._open[number] = engine, nothing
        try:
            request = request_of(ask, engine.model)
            told = partial(self._told, number)
            leave = engine.post(request, ask.deadline, told, ask.standing or ANYBODY)
        except Exception as error:
            self._told(number, error, None)
            return
        if number in self._open:  # it was not answered at once
            self._open[number] = engine, leave

    def _told(self, number: int, said: InferResponse | Exception, others: Any) -> None:
        found = self._open.pop(number, None)
        if found is None:
            return
        found[0].leave()
        if isinstance(said, InferResponse):
            message = Outputs(number, sent(said.outputs), dict(said.parameters) or None, said.timing)
            self._send(message)
            return
        if not isinstance(said, SalverError):
            _LOG.error("the engine failed", exc_info=said)
            said = Internal(f"the engine failed: {type(said).__name__}; the log has the cause")
        said.__traceback__ = None
        self._send(Refusal(number, pickled(said)))

    def leave(self, message: Leave) -> None:
        """Cancel a request, whose caller is gone; it may have ended."""
        found = self._open.pop(message.number, None)
        if found is not None:
            engine, leave = found
            leave()
            engine.leave()

    def abandon(self) -> None:
        """Cancel all requests, because their front is gone."""
        for number in list(self._open):
            self.leave(Leave(number))
