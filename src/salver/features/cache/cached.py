"""One version with cached answers: look up, join an equal request in flight, or start the model."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Hashable

import msgspec

from salver.features.cache.caching import Caching, Computed, Infer
from salver.features.cache.key import KeyMaker, glimpse, owner_of
from salver.features.cache.local import LocalCache
from salver.features.cache.meter import PROBED, seconds_of
from salver.features.cache.packing import unpack
from salver.kernel.engine.delivery import ReplyCallback, nothing, run
from salver.kernel.serving.capabilities import Post
from salver.words.errors import Cancelled, DeadlineExceeded
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Standing, Timing

#: Inputs of this many bytes are hashed on another thread: about a millisecond of work.
_MANY_BYTES = 1 << 20
_PROBED_BELOW = int(PROBED * (1 << 32))
_Told = Callable[[InferResponse | Exception], None]
_Done = Callable[[Computed | Exception], None]


class _Waiter:
    """One request that waits for its answer, which equal ones may share."""

    __slots__ = (
        "deadline", "is_leader", "key", "leave", "model", "request", "sender", "standing", "timer", "told",
        "took",
    )  # fmt: skip

    def __init__(
        self,
        model: "CachedModel",
        request: InferRequest,
        key: bytes,
        terms: tuple[float | None, Hashable, Standing],
        took: float,
        told: _Told,
    ) -> None:
        self.model = model
        self.request = request
        self.key = key
        self.deadline, self.sender, self.standing = terms
        self.took = took
        self.told = told
        self.is_leader = False
        self.timer: asyncio.TimerHandle | None = None
        self.leave: Callable[[], None] = nothing

    def start(self, done: _Done) -> Callable[[], None]:
        """Start the model for this request, whose deadline is the engine's from now on."""
        self.is_leader = True
        self._stop_timer()
        return self.model.compute(self, done)

    def hear(self, outcome: Computed | Exception) -> None:
        """Take the outcome."""
        self._stop_timer()
        if isinstance(outcome, Exception):
            self.told(outcome)
        else:
            self.told(self.model.answer(self, outcome))

    def bound(self) -> None:
        """Wait no longer than until the request's own deadline."""
        if self.deadline is not None and not self.is_leader:
            left = self.deadline - self.model.now()
            self.timer = asyncio.get_running_loop().call_later(max(0.0, left), self._expire)

    def give_up(self) -> None:
        """Wait no more."""
        self._stop_timer()
        self.leave()

    def _expire(self) -> None:
        self.leave()
        self.told(DeadlineExceeded("the deadline passed while an equal request was being computed"))

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class CachedModel:
    """A version with cached answers.

    Args:
        infer: The model itself.
        post: The same through a callback, if it has that.
        sees_parameters: The model receives the requests' parameters.
        stateful: Names of the signatures whose runs affect later ones: their answers are not cached.
    """

    def __init__(
        self,
        caching: Caching,
        infer: Infer,
        id: ModelId,
        fingerprint: str,
        *,
        sees_parameters: bool,
        post: Post | None = None,
        stateful: frozenset[str] = frozenset(),
    ) -> None:
        self.id = id
        self._caching = caching
        self._infer = infer
        self._post = post
        self._stateful = stateful
        self._owner = owner_of(id, fingerprint)
        self._keys = KeyMaker(self._owner, sees_parameters=sees_parameters)
        self._meter = caching.meter(id, self._owner)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<CachedModel {self.id}>"

    def now(self) -> float:
        """Return the current time."""
        return self._caching.now()

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """See :meth:`salver.kernel.serving.ports.Inferring.infer`."""
        caching = self._caching
        if not self._meter.is_on or (self._stateful and request.signature in self._stateful):
            self._probe(request)
            return await self._infer(request, deadline, sender, standing)
        began = caching.now()
        key = await self._key(request)
        if caching.near is not None and (found := self._find(key, request, began)) is not None:
            return found
        answered: asyncio.Future[InferResponse | Exception] = asyncio.get_running_loop().create_future()
        terms = (deadline, sender, standing)
        waiter = _Waiter(
            self, request, key, terms, caching.now() - began, functools.partial(_settle, answered)
        )
        self._join(waiter)
        try:
            outcome = await answered
        except asyncio.CancelledError:
            waiter.give_up()
            raise
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)  # all who share it would add theirs
        return outcome

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """See :class:`~salver.kernel.serving.capabilities.Post`; only with a near cache."""
        caching = self._caching
        if not self._meter.is_on or (self._stateful and request.signature in self._stateful):
            assert self._post is not None
            self._probe(request)
            return self._post(request, deadline, told, standing)
        if _is_large(request):
            return run(told, self.infer(request, deadline, None, standing))
        began = caching.now()
        key = self._keys.key(request)
        found = self._find(key, request, began)
        if found is not None:
            told(found, None)
            return nothing
        terms = (deadline, None, standing)
        waiter = _Waiter(
            self, request, key, terms, caching.now() - began, lambda outcome: told(outcome, None)
        )
        self._join(waiter)
        return waiter.give_up

    async def stale(self, request: InferRequest, max_age_s: float) -> InferResponse | None:
        """See :class:`~salver.kernel.serving.capabilities.Stale`; only with a local cache."""
        assert isinstance(self._caching.near, LocalCache)
        if request.signature in self._stateful:
            return None
        packed = self._caching.near.find_stale(await self._key(request), max_age_s)
        if packed is None or (found := unpack(packed)) is None:
            return None
        outputs, parameters = found
        return InferResponse(
            request.model, self.id.version, outputs, request.id, parameters, Timing(cache="hit")
        )

    async def close(self) -> None:
        """Note that the version is unloaded."""
        await self._caching.forget(self._owner, self._meter)

    def compute(self, waiter: _Waiter, done: _Done) -> Callable[[], None]:
        """Start the model for a request; return what cancels it."""
        if self._post is not None and self._caching.near is not None:
            reply = functools.partial(self._replied, waiter, done)
            return self._post(waiter.request, waiter.deadline, reply, waiter.standing)
        task = asyncio.get_running_loop().create_task(self._run(waiter, done), name=f"answer of {self.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return functools.partial(_cancel, task)

    def answer(self, waiter: _Waiter, computed: Computed) -> InferResponse:
        """Return a request's own form of the answer that it shares, and count it."""
        response, meter, took = computed.response, self._meter, waiter.took
        if waiter.is_leader and not computed.is_hit:
            seconds = took + computed.inserting
            timing = msgspec.structs.replace(response.timing, cache="miss", cache_seconds=seconds)
        else:
            if waiter.is_leader:
                meter.hit(waiter.key, took)
            else:
                meter.joined(waiter.key, took)
            timing = Timing(cache="hit", cache_seconds=took)
        request = waiter.request
        return msgspec.structs.replace(response, model=request.model, id=request.id, timing=timing)

    async def _key(self, request: InferRequest) -> bytes:
        if _is_large(request):
            return await asyncio.to_thread(self._keys.key, request)
        return self._keys.key(request)

    def _find(self, key: bytes, request: InferRequest, began: float) -> InferResponse | None:
        caching = self._caching
        packed = caching.find(key)
        if packed is None or (found := unpack(packed)) is None:
            return None
        outputs, parameters = found
        took = caching.now() - began
        self._meter.hit(key, took)
        timing = Timing(cache="hit", cache_seconds=took)
        return InferResponse(request.model, self.id.version, outputs, request.id, parameters, timing)

    def _join(self, waiter: _Waiter) -> None:
        waiter.leave, is_first = self._caching.flights.join(waiter.key, waiter.start, waiter.hear)
        if not is_first:
            waiter.bound()

    def _replied(
        self,
        waiter: _Waiter,
        done: _Done,
        said: InferResponse | Exception,
        others: AsyncGenerator[InferResponse, None] | None,
    ) -> None:
        if isinstance(said, Exception):
            done(said)
            return
        began = self.now()
        size = self._caching.keep(waiter.key, waiter.request, said)
        done(self._missed(waiter, said, size, self.now() - began))

    async def _run(self, waiter: _Waiter, done: _Done) -> None:
        """Compute an answer in a task: of a far cache, or of a model without callbacks."""
        caching, request = self._caching, waiter.request
        try:
            if caching.near is None:
                began = caching.now()
                packed = await caching.lookup(waiter.key)
                found = None if packed is None else unpack(packed)
                waiter.took += caching.now() - began
                if found is not None:
                    outputs, parameters = found
                    response = InferResponse(request.model, self.id.version, outputs, "", parameters)
                    done(Computed(response, is_hit=True))
                    return
            response = await self._infer(request, waiter.deadline, waiter.sender, waiter.standing)
            began = caching.now()
            if caching.near is None:
                size = await caching.insert(waiter.key, response)
            else:
                size = caching.keep(waiter.key, request, response)
            done(self._missed(waiter, response, size, caching.now() - began))
        except asyncio.CancelledError:
            done(Cancelled("the request was cancelled"))
            raise
        except Exception as error:
            done(error)

    def _missed(self, waiter: _Waiter, response: InferResponse, size: int, inserting: float) -> Computed:
        run_s = seconds_of(waiter.request, response.timing)
        self._meter.missed(waiter.key, size, run_s, waiter.took, inserting)
        return Computed(response, inserting)

    def _probe(self, request: InferRequest) -> None:
        """Show one in sixteen contents to the sampler."""
        if request.signature in self._stateful or _is_large(request):
            return
        if glimpse(request) < _PROBED_BELOW:
            self._meter.probe(self._keys.key(request))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _is_large(request: InferRequest) -> bool:
    inputs = request.inputs
    if len(inputs) == 1:
        return inputs[0].array.nbytes >= _MANY_BYTES
    size = 0
    for tensor in inputs:
        size += tensor.array.nbytes
    return size >= _MANY_BYTES


def _settle(answered: asyncio.Future[InferResponse | Exception], outcome: InferResponse | Exception) -> None:
    if not answered.done():
        answered.set_result(outcome)
