"""Calls of models to their server.

Models in host processes can call other models, load and unload them, and keep metrics (TR-S7, TR-M8).
Requests go through the data plane (:mod:`salver.kernel.serving.inner`). Errors have the texts of Triton's
Python backend. A request that would deadlock, because every instance that could answer it waits for it, is
refused at once.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Literal

from salver.backends.callbacks import ModelCommand, Series
from salver.kernel.engine.ports import CallTerms
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.ports import Managing, OwnNumbers
from salver.words import traceparent
from salver.words.errors import InvalidInput, NotFound, NotReady, OnlyStreams, SalverError, Unsupported
from salver.words.messages import Call, InferRequest, InferResponse, ModelId


def deadlocked(hosts: Mapping[ModelId, Sequence[AbstractSet[ModelId]]]) -> set[ModelId]:
    """Return the deadlocked models, all of whose hosts wait for deadlocked models.

    Args:
        hosts: For each host of a model, the models that its run waits for; empty if it is idle or computing.

    >>> a, b, c = (ModelId(name, "1") for name in "abc")
    >>> sorted(map(str, deadlocked({a: [{b}], b: [{a}], c: [{a}, set()]})))
    ['a:1', 'b:1']
    """
    left = set(hosts)
    while free := {id for id in left if any(not waits & left for waits in hosts[id])}:
        left -= free
    return left


class _NoNumbers:
    """Metrics of a server that has no metrics page."""

    def open(self, owner: object, series: Series) -> int:
        raise Unsupported("this server has no metrics page")

    def change(self, owner: object, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        raise Unsupported("this server has no metrics page")

    def value(self, owner: object, handle: int) -> float:
        raise Unsupported("this server has no metrics page")

    def forget(self, owner: object) -> None:
        pass


class ModelCallbacks:
    """Callbacks of all models.

    Args:
        control: Returns the control interface, which is created after the loader.
        clock: Monotonic seconds.
        new_id: Makes ids of 16 hexadecimal digits, for requests and spans.
        numbers: Models' own metrics; None = there is no metrics page.
    """

    def __init__(
        self,
        inner: Inner,
        control: Callable[[], Managing],
        clock: Callable[[], float],
        new_id: Callable[[], str],
        numbers: OwnNumbers | None = None,
    ) -> None:
        self.inner = inner
        self.control = control
        self.numbers: OwnNumbers = numbers or _NoNumbers()
        self._clock = clock
        self._new_id = new_id
        #: For each host of a version, the models that its run waits for, with counts.
        self.hosts: dict[ModelId, list[Counter[ModelId]]] = {}

    def __repr__(self) -> str:
        return f"<ModelCallbacks of {', '.join(map(str, self.hosts)) or 'none'}>"

    def admit(self, id: ModelId) -> "VersionCallbacks":
        """Return the callbacks of a version that is being loaded."""
        return VersionCallbacks(self, id)

    def is_deadlocked(self, id: ModelId) -> bool:
        """Return whether all hosts of a version are deadlocked."""
        return id in deadlocked({id: [set(+waits) for waits in hosts] for id, hosts in self.hosts.items()})

    def call(self, request: InferRequest, deadline: float | None) -> Call:
        """Return the call context of a model's request."""
        parent = None
        if request.trace:
            parent = traceparent.parse(request.trace)
        span = ""
        if parent:
            span = traceparent.format(traceparent.child(parent, self._new_id()))
        id = request.id or self._new_id()
        return Call("bls", self._clock(), deadline, id, span, parent=request.trace if parent else "")


class VersionCallbacks:
    """Callbacks of one version (:class:`~salver.kernel.engine.ports.CallbackProvider`)."""

    def __init__(self, calls: ModelCallbacks, id: ModelId) -> None:
        self.calls = calls
        self.id = id
        self.meters = _Meters(self)

    def __repr__(self) -> str:
        return f"<VersionCallbacks {self.id}>"

    def enter(self) -> "_HostCallbacks":
        """Return the callbacks of a new host."""
        return _HostCallbacks(self)

    def leave(self) -> None:
        """Forget the version's metrics."""
        self.calls.numbers.forget(self)


class _HostCallbacks:
    """See :class:`~salver.kernel.engine.ports.ModelCaller`."""

    def __init__(self, version: VersionCallbacks) -> None:
        self._calls = version.calls
        self._id = version.id
        self._waits: Counter[ModelId] = Counter()
        self._calls.hosts.setdefault(self._id, []).append(self._waits)

    async def infer(self, request: InferRequest, terms: CallTerms) -> InferResponse:
        """Return the one answer of a model."""
        with self._asking(request, terms) as call:
            return await self._calls.inner.infer(request, call)

    async def stream(
        self, request: InferRequest, terms: CallTerms, write: Callable[[InferResponse], Awaitable[None]]
    ) -> None:
        """Write the answer of a model in pieces."""
        with self._asking(request, terms) as call:
            await self._calls.inner.stream(request, call, write)

    async def manage(self, wish: ModelCommand) -> bool:
        """Load or unload a model, or check its readiness."""
        control = self._calls.control()
        try:
            if wish.kind == "is_ready":
                return await control.answers(wish.model, wish.version)
            if wish.kind == "load":
                await control.load(wish.model, wish.order)
            else:
                await control.unload(wish.model, dependents=wish.dependents)
        except SalverError as error:
            if not error.triton:
                raise
            raise type(error)(error.triton) from error
        return True

    def leave(self) -> None:
        """Forget the host; it may be restarted, so the model's metrics stay."""
        hosts = self._calls.hosts[self._id]
        hosts[:] = [other for other in hosts if other is not self._waits]
        if not hosts:
            del self._calls.hosts[self._id]

    @contextmanager
    def _asking(self, request: InferRequest, terms: CallTerms) -> Iterator[Call]:
        """Count this host as waiting during a call, and give errors Triton's texts."""
        model, calls = request.model, self._calls
        prefix = f"Model {model} - Error when running inference: "
        try:
            target = calls.inner.find(model, request.version)
        except (NotFound, NotReady) as error:
            raise NotReady(
                f"{prefix}Failed for execute the inference request. Model '{model}' is not ready.",
                fix=f"{error}.",
            ) from error
        if terms.is_of_run:
            self._waits[target] += 1
        try:
            if terms.is_of_run and calls.is_deadlocked(self._id):
                raise NotReady(
                    f"{prefix}model '{self._id.name}' would wait for itself: every instance that could "
                    f"answer '{model}' waits for an answer that only they could give",
                    fix=f"Raise the count in the instance_group of '{model}'.",
                )
            yield calls.call(request, terms.deadline)
        except OnlyStreams as error:
            raise Unsupported(
                f"{prefix}Model {model} is using the decoupled. The current BLS request call doesn't support "
                "models using the decoupled transaction policy. Please use 'decoupled=True' argument to the "
                "'exec' or 'async_exec' calls for decoupled models.'"
            ) from error
        except InvalidInput as error:
            if error.is_late:  # raised by the model, not by the check of the request
                raise
            text = error.triton or str(error)
            raise InvalidInput(prefix + text) from error
        finally:
            if terms.is_of_run:
                self._waits[target] -= 1


class _Meters:
    """See :class:`~salver.backends.callbacks.Meters`."""

    def __init__(self, version: VersionCallbacks) -> None:
        self._owner = version
        self._numbers = version.calls.numbers

    def open(self, series: Series) -> int:
        """Return a handle on a series."""
        return self._numbers.open(self._owner, series)

    def change(self, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Change a value."""
        self._numbers.change(self._owner, handle, how, value)

    def value(self, handle: int) -> float:
        """Return a value."""
        return self._numbers.value(self._owner, handle)
