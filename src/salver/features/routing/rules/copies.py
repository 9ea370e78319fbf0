"""Copies of requests for a rule's shadow, whose answers are dropped."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from salver.features.routing.rules.document import Rule
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.standing import PARAMETERS
from salver.kernel.supervise import Supervisor
from salver.words.errors import SalverError
from salver.words.messages import Call, InferRequest, Standing
from salver.words.tensor import size_of

_LOG = logging.getLogger("salver.routing")
_PATIENCE_S: Final = 60.0
_MOST: Final = 32
_MOST_BYTES: Final = 64 << 20
_BEHIND: Final = Standing(service="bulk")
#: Parameters for the caller, not for the model.
_CALLERS: Final = PARAMETERS | {"timeout"}


class Copies:
    """Sender of copies.

    Args:
        inner: Asks the server's models, without response caches and logs.
        clock: Monotonic seconds.

    Attributes:
        counts: Copies by the rule's name and their outcome: ``answered``, ``failed`` or ``dropped``, because
            too many are under way, they belong to a sequence, or copies are switched off.
    """

    def __init__(self, inner: Inner, clock: Callable[[], float]) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._inner = inner
        self._clock = clock
        self._tasks = Supervisor(_LOG, "a copy failed")
        self._running = self._bytes = 0
        self._is_on = True
        self.close = self._tasks.close

    def __repr__(self) -> str:
        return f"<Copies, {self._running} under way>"

    def switch(self, is_on: bool) -> None:
        """Start to drop all copies, or to send them again."""
        self._is_on = is_on

    def send(self, rule: Rule, request: InferRequest) -> None:
        """Send a copy in the background, with lower priority than callers."""
        size = size_of(request.inputs)
        has_room = self._is_on and self._running < _MOST and self._bytes + size <= _MOST_BYTES
        if not has_room or "sequence_id" in request.parameters:
            self.counts[rule.name, "dropped"] += 1
            return
        self._running += 1
        self._bytes += size
        self._tasks.start(f"copy of {rule.name}", self._ask(rule, request, size))

    async def _ask(self, rule: Rule, request: InferRequest, size: int) -> None:
        to, now, outcome = rule.settings.shadow, self._clock(), "failed"
        parameters = {key: value for key, value in request.parameters.items() if key not in _CALLERS}
        copy = msgspec.structs.replace(request, model=to, version="", parameters=parameters)
        try:
            await self._inner.infer(copy, Call("shadow", now, now + _PATIENCE_S, standing=_BEHIND))
            outcome = "answered"
        except SalverError as error:
            _LOG.debug("the copy of rule %r to %s: %s", rule.name, to, error)
        finally:
            self._running -= 1
            self._bytes -= size
            self.counts[rule.name, outcome] += 1
