"""How does one worker run one batch of a handler, or the steps of a continuous one?

It says what the worker is told, and hands pieces to their callers. When and with what, its owner decides.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import msgspec

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine.calls import HandlerCall
from salver.dialects.torchserve.engine.job_queue import Batch
from salver.dialects.torchserve.engine.worker_pool import Worker
from salver.words.errors import HandlerFailed, HostDied, HostGone, SalverError
from salver.words.messages import InferRequest, Timing

#: Takes a run that is over, or one of its steps, what it gave, and the handler's own seconds.
Ended = Callable[["HandlerRun", Sequence[Answer] | SalverError, float], None]


class HandlerRun:
    """A batch on its worker.

    Args:
        has_steps: Its requests may go on in another step, and are told apart by their ids.
        ended: Called once for the batch, or for each step of it.

    Attributes:
        calls: Those of this step, or of the batch.
        is_first: No step of it has run.
    """

    __slots__ = (
        "_began", "_ended", "_has_steps", "_idle_since", "_ids", "_is_lone", "calls", "is_first", "reason",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, batch: Batch[InferRequest], has_steps: bool, ended: Ended) -> None:
        self.worker = worker
        self.calls: list[HandlerCall] = batch.jobs  # type: ignore[assignment]  # all jobs here are calls
        self.is_first = True
        self.reason = batch.reason
        self._has_steps = has_steps
        self._ended = ended
        self._ids: dict[HandlerCall, str] = {}
        self._began = self._idle_since = 0.0
        self._is_lone = False

    def __repr__(self) -> str:
        return f"<HandlerRun of {len(self.calls)} on {self.worker!r}>"

    @property
    def is_dead(self) -> bool:
        """Its worker's process is gone."""
        host = self.worker.host
        return host is None or host.dead.done()

    def begin(self, now: float, idle_since: float, is_lone: bool) -> None:
        """Tell the worker; ``ended`` may be called at once."""
        self._is_lone = is_lone
        self._began, self._idle_since = now, idle_since
        if self._has_steps:
            self._ids = _named(self.calls, ())
            self._ask([_identified(call.what, self._ids[call]) for call in self.calls])
        else:
            self._ask([call.what for call in self.calls])

    def go_on(self, staying: Sequence[HandlerCall], new: Sequence[HandlerCall], now: float) -> None:
        """Another step: of those that stay the worker knows everything but that they do."""
        self._is_lone = self.is_first = False
        ids = {call: self._ids[call] for call in staying}
        ids |= _named(new, ids.values())
        self.calls, self._ids = [*staying, *new], ids
        self._began = self._idle_since = now
        again = [InferRequest(call.what.model, (), call.what.version, ids[call]) for call in staying]
        self._ask([*again, *(_identified(call.what, ids[call]) for call in new)])

    def _ask(self, requests: Sequence[InferRequest]) -> None:
        host = self.worker.host
        try:
            if host is None:
                raise HostGone("its worker is gone")
            host.handle(requests, self._piece, self._done, self._is_lone)
        except SalverError as error:
            self._done(error, 0.0)

    def _done(self, said: Sequence[Answer] | SalverError, seconds: float) -> None:
        if not isinstance(said, SalverError) and len(said) != len(self.calls):
            said = HandlerFailed("number of batch response mismatched", 503)
        self._ended(self, said, seconds)

    def _piece(self, index: int, answer: Answer) -> None:
        if 0 <= index < len(self.calls):
            call = self.calls[index]
            call.put(answer, self.timing(call, 0.0, 0.0), is_last=False)

    def timing(self, call: HandlerCall, seconds: float, ended: float) -> Timing:
        """Where the time of one of its requests went."""
        arrived, began, idle_since = call.arrived, self._began, self._idle_since
        waited = began - arrived if began > arrived else 0.0
        formation = began - idle_since if idle_since > arrived else waited
        if formation < 0.0:
            formation = 0.0
        rows = len(self.calls)
        return Timing(waited - formation, formation, seconds, rows, call.ahead, self.reason, arrived, ended)


def died() -> HandlerFailed:
    """What callers are told whose worker died while it ran their request, in TorchServe's words."""
    return HandlerFailed("Worker died.", 500)


def told(error: SalverError) -> SalverError:
    """What one of the callers of a run that failed is told; an error object for each."""
    if isinstance(error, HostDied):
        return died()
    if isinstance(error, HandlerFailed):
        return HandlerFailed(error.message, error.status)
    return type(error)(error.message, field=error.field, fix=error.fix)


def _named(calls: Sequence[HandlerCall], taken: Iterable[str]) -> dict[HandlerCall, str]:
    """An id for each, its own where no other one has it."""
    used = set(taken)
    names: dict[HandlerCall, str] = {}
    for call in calls:
        id = call.what.id
        if not id or id in used:
            names_of = (f"{call.what.id or 'request'}-{n}" for n in itertools.count(1))
            id = next(name for name in names_of if name not in used)
        used.add(id)
        names[call] = id
    return names


def _identified(request: InferRequest, id: str) -> InferRequest:
    return request if request.id == id else msgspec.structs.replace(request, id=id)
