"""Engine of a model whose instances are other servers.

The asyncio shell around :mod:`~salver.features.routing.choosing`. A request goes to one instance; if that
fails in a way that allows it, to another one, within the deadline and the budget of retries. What is sent
is the Open Inference Protocol with binary tensors, by Salver's own client.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from salver.client.client import status_error
from salver.client.encoding import decode_reply, encode_request
from salver.client.events import EventStream
from salver.client.http import Http, NoConnection, Reply, Unreachable
from salver.features.routing.choosing import Outcome, Router
from salver.features.routing.document import Document
from salver.features.routing.instances import Instance
from salver.features.routing.sequences import SequenceHomes
from salver.features.routing.slowest import LatencyQuantile
from salver.features.routing.streaming import generate_body, piece
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.generation import SIGNATURE as TOKENS
from salver.kernel.engine.refusals import LATE, closing, due, full, so_many
from salver.kernel.serving.capabilities import Capabilities
from salver.words.artifacts import ModelConfig
from salver.words.errors import DeadlineExceeded, InvalidInput, ModelFailed, NotReady, Overloaded, SalverError
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Parameter,
    Signature,
    Standing,
    Timing,
)

#: Statuses after which another instance may answer, if the request may be run twice.
_ELSEWHERE: Final = frozenset((404, 429, 500, 502, 503))
#: Seconds in which a connection to an instance has to come about.
CONNECT_S: Final = 1.0

_AnswerT = TypeVar("_AnswerT", Reply, EventStream)
#: Sends a request to an instance.
_Send = Callable[[Instance], Coroutine[Any, Any, _AnswerT]]


class RoutedModel:
    """One version of a model, answered by its instances.

    Args:
        router: Chooses among the instances.
        clients: Connections by URL.
        clock: Monotonic seconds.
        emit: Called for every request as for one run.

    Attributes:
        homes: Instances of active sequences; None = the model keeps none.
        streams: The instances answer in pieces.
    """

    homes: SequenceHomes | None = None
    streams: bool = False

    def __init__(
        self,
        id: ModelId,
        signature: Signature,
        router: Router,
        clients: dict[str, Http],
        document: Document,
        config: ModelConfig,
        *,
        token: str = "",
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
    ) -> None:
        self.id = id
        self.signature = signature
        self.router = router
        self.clients = clients
        self.document = document
        self.policy: str = document.policy
        self.running = 0
        self.queued = 0
        self._headers = [("authorization", f"Bearer {token}")] if token else []
        self._admission = Admission(id.name, signature)
        self._timeout_ms = config.timeout_ms
        self._clock = clock
        self._emit = emit
        self._is_closed = False
        self._usual = LatencyQuantile(document.hedge)
        version = f"/versions/{quote(document.version, safe='')}" if document.version else ""
        self._path = f"/v2/models/{quote(document.model or id.name, safe='')}{version}"

    def __repr__(self) -> str:
        return f"<RoutedModel {self.id}, {len(self.router.instances)} instances, {self.running} running>"

    @property
    def capabilities(self) -> Capabilities:
        """Return the engine's capabilities, which are those of the instances."""
        if not self.streams:
            return Capabilities(sequences=self.homes, is_remote=True)
        gives_parts = self.signature.platform == TOKENS.platform
        return Capabilities(stream=self.stream, gives_parts=gives_parts, sequences=self.homes, is_remote=True)

    def insight(self) -> Insight:
        """Return figures for operators; those of the instances are theirs."""
        return Insight()

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request.

        Raises:
            InvalidInput: it does not match the signature.
            NotReady: no instance answers.
            SalverError: the error of the instance that was asked last.
        """
        bound, began, deadline = self._begin(request, deadline)
        ok = False
        try:
            headers, body = _encoded(bound.request, began, deadline)
            headers += self._headers

            def send(instance: Instance) -> Coroutine[Any, Any, Reply]:
                client = self.clients[instance.url]
                return client.send(client.request("POST", f"{self._path}/infer", body, headers))

            reply, asked_at = await self._attempts(bound.request, deadline, send)
            response = self._response(bound, reply, asked_at)
            ok = True
            return response
        finally:
            self._end(bound, began, ok=ok)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the pieces of an instance's answer; nothing is repeated after the first one.

        Raises:
            InvalidInput: it does not match the signature.
            NotReady: no instance answers, or the one that answered has broken off.
            SalverError: the error of the instance that was asked last.
        """
        bound, began, deadline = self._begin(request, deadline)
        ok = False
        try:
            body = generate_body(bound, _parameters(bound.request, began, deadline))
            asked: list[Instance] = []

            def send(instance: Instance) -> Coroutine[Any, Any, EventStream]:
                asked.append(instance)
                client = self.clients[instance.url]
                sent = client.request("POST", f"{self._path}/generate_stream", body, self._headers)
                return EventStream.open(client, sent)

            events, asked_at = await self._attempts(bound.request, deadline, send, may_hedge=False)
            async with self._reading(asked[-1], events) as instance:
                while (data := await self._next(instance, events, deadline)) is not None:
                    found = piece(data, bound, self.signature, self.id.version)
                    yield msgspec.structs.replace(found, timing=self._timing(bound, asked_at))
            ok = True
        finally:
            self._end(bound, began, ok=ok)

    @asynccontextmanager
    async def _reading(self, instance: Instance, events: EventStream) -> AsyncIterator[Instance]:
        """Count a request as under way while its pieces are read; then close its connection."""
        outcome: Outcome = "left"  # the first piece has counted as the answer
        began, under_way = self._clock(), self.router.begin(instance)
        try:
            yield instance
        except Unreachable as error:
            outcome = "failed"
            raise self._about(instance, error) from error
        finally:
            events.close()
            now = self._clock()
            self.router.end(instance, outcome, now - began, under_way, now)

    async def _next(self, instance: Instance, events: EventStream, deadline: float | None) -> bytes | None:
        """Return the next event; None = there are no more. Raises Unreachable or DeadlineExceeded."""
        limit = self.document.attempt_s
        if deadline is not None:
            limit = min(limit, deadline - self._clock())
        try:
            async with asyncio.timeout(limit):
                return await events.next()
        except TimeoutError:
            if deadline is not None and self._clock() >= deadline:
                raise DeadlineExceeded(LATE) from None
            raise Unreachable(f"there is no further piece within {limit:g} s") from None

    def _begin(
        self, request: InferRequest, deadline: float | None
    ) -> tuple[BoundRequest, float, float | None]:
        """Count a request as running; return it with the time and its deadline."""
        bound = self._admission.bind(request)
        if self._is_closed:
            raise closing(self.id)
        began = self._clock()
        self.running += 1
        return bound, began, due(deadline, began, self._timeout_ms)

    def _end(self, bound: BoundRequest, began: float, *, ok: bool) -> None:
        self.running -= 1
        took = self._clock() - began
        self._emit(BatchRan(self.id.name, self.id.version, bound.rows, 1, took, 0.0, 0.0, "steps", ok))

    async def close(self) -> None:
        """Reject new requests and close the connections."""
        self._is_closed = True
        for client in self.clients.values():
            await client.close()

    async def _attempts(
        self,
        request: InferRequest,
        deadline: float | None,
        send: _Send[_AnswerT],
        *,
        may_hedge: bool = True,
    ) -> tuple[_AnswerT, float]:
        """Return the answer of the first instance that gives one, and when it was asked."""
        router, clock, homes = self.router, self._clock, self.homes
        # A sequence continues where it began, and its step must not run twice.
        is_repeatable = not request.parameters.get("sequence_id")
        home = None
        if homes is not None:
            home = homes.find(request, router.instances)
        may_hedge = may_hedge and is_repeatable and bool(self.document.hedge)
        key = str(request.parameters.get(self.document.key, "")) if self.document.key else ""
        router.budget.request()
        tried: list[str] = []
        among = f"group '{request.group}' of model" if request.group else "model"
        error: SalverError = NotReady(f"no instance of {among} '{self.id.name}' is there", field="model")

        def choose() -> Instance | None:
            return router.choose(key, tried, clock(), request.group)

        for _ in range(self.document.attempts):
            now = clock()
            if deadline is not None and now >= deadline:
                raise DeadlineExceeded(LATE)
            instance = home or choose()
            if instance is None:
                if not tried and router.is_full(request.group):
                    raise full(so_many(self.running))
                break
            router.retries += bool(tried)
            tried.append(instance.url)
            if homes is not None:
                homes.keep(request, instance)

            def ask(one: Instance) -> Coroutine[Any, Any, _AnswerT]:
                return self._ask(one, send(one), deadline)

            try:
                if may_hedge and self._usual.is_known:
                    reply = await self._hedged(instance, ask, choose, tried)
                else:
                    reply = await ask(instance)
                if may_hedge:
                    self._usual.add(clock() - now)
                if homes is not None:
                    homes.answered(request)
                return reply, now
            except _Failed as failure:
                error = failure.error
                if home is not None:
                    break
                if not failure.is_unsent and not (is_repeatable and router.budget.take()):
                    break
        raise error

    async def _hedged(
        self,
        instance: Instance,
        ask: _Send[_AnswerT],
        choose: Callable[[], Instance | None],
        tried: list[str],
    ) -> _AnswerT:
        """Ask an instance and, if it takes longer than usual, another one; return the first answer."""
        tasks = [asyncio.ensure_future(ask(instance))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._usual.seconds)
            if not done:
                other = choose()
                if other is not None and self.router.budget.take():
                    self.router.hedges += 1
                    tried.append(other.url)
                    tasks.append(asyncio.ensure_future(ask(other)))
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            good = next((task for task in tasks if task in done and task.exception() is None), None)
            # One that failed leaves the word to the other.
            return await (good or next((task for task in tasks if task not in done), tasks[-1]))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, instance: Instance, answer: Awaitable[_AnswerT], deadline: float | None) -> _AnswerT:
        """Return an instance's answer to one attempt. Raises _Failed where another one may follow."""
        router, began, limit = self.router, self._clock(), self.document.attempt_s
        if deadline is not None:
            limit = min(limit, deadline - began)
        outcome: Outcome = "left"
        under_way = router.begin(instance)
        try:
            async with asyncio.timeout(limit):
                reply = await answer
            outcome = "answered"
            if reply.status == 200:
                return reply
            error = status_error(reply)
            if reply.status not in _ELSEWHERE:
                outcome = "refused"
                raise error
            # It says nothing against the instance's health.
            is_busy = reply.status == 429 or b"retry-after" in reply.headers
            outcome = "refused" if is_busy else "failed"
            raise _Failed(self._about(instance, error))
        except TimeoutError:
            # The other side may have gone without a word: each idle connection would cost a request.
            if (client := self.clients.get(instance.url)) is not None:
                await client.close()
            if deadline is not None and self._clock() >= deadline:
                outcome = "late"
                raise DeadlineExceeded(LATE) from None
            outcome = "failed"
            raise _Failed(NotReady(f"{instance.url} gives no answer within {limit:g} s")) from None
        except Unreachable as error:
            outcome = "failed"
            raise _Failed(self._about(instance, error), is_unsent=isinstance(error, NoConnection)) from error
        finally:
            now = self._clock()
            router.end(instance, outcome, now - began, under_way, now)

    def _about(self, instance: Instance, error: SalverError) -> SalverError:
        """Return an instance's error, with its URL."""
        if isinstance(error, (Overloaded, ModelFailed)):
            return error
        return NotReady(f"instance {instance.url} of model '{self.id.name}': {error.message}", field="model")

    def _response(self, bound: BoundRequest, reply: Reply, began: float) -> InferResponse:
        request = bound.request
        try:
            found = {tensor.name: tensor for tensor in decode_reply(reply.headers, reply.body)}
            outputs = tuple(found[name] for name in bound.outputs)
        except (InvalidInput, KeyError) as error:
            raise ModelFailed(
                f"an instance of model '{self.id.name}' gave a wrong answer: {error}"
            ) from error
        timing = self._timing(bound, began)
        return InferResponse(request.model, self.id.version, outputs, request.id, timing=timing)

    def _timing(self, bound: BoundRequest, began: float) -> Timing:
        now = self._clock()
        return Timing(inference=now - began, batch_rows=bound.rows, reason="steps", arrived=began, ended=now)


class _Failed(Exception):
    """Failed attempt after which another one may follow.

    Attributes:
        is_unsent: The instance has not seen the request.
    """

    def __init__(self, error: SalverError, *, is_unsent: bool = False) -> None:
        self.error = error
        self.is_unsent = is_unsent


def _parameters(request: InferRequest, now: float, deadline: float | None) -> dict[str, Parameter]:
    """Return the parameters of a request, with the time that is left for it."""
    parameters: dict[str, Parameter] = dict(request.parameters)
    if deadline is not None:
        parameters["timeout"] = max(1, int((deadline - now) * 1e6))
    return parameters


def _encoded(
    request: InferRequest, now: float, deadline: float | None
) -> tuple[list[tuple[str, str]], bytes]:
    parameters = _parameters(request, now, deadline)
    outputs = [output.name for output in request.outputs]
    return encode_request(request.inputs, outputs=outputs, id=request.id, parameters=parameters)
