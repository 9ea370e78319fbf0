"""Engine of a model whose instances are other servers.

The asyncio shell around :mod:`~salver.features.routing.choosing`. A request goes to one instance; if that
fails in a way that allows it, to another one, within the deadline and the budget of retries. What is sent
is the Open Inference Protocol with binary tensors, by Salver's own client.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final
from urllib.parse import quote

from salver.client.client import status_error
from salver.client.encoding import decode_reply, encode_request
from salver.client.http import Http, NoConnection, Reply, Unreachable
from salver.features.routing.choosing import Outcome, Router
from salver.features.routing.document import Document
from salver.features.routing.instances import Instance
from salver.features.routing.slowest import LatencyQuantile
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.refusals import LATE, closing, due, full, so_many
from salver.kernel.serving.capabilities import PLAIN, Capabilities
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


class RoutedModel:
    """One version of a model, answered by its instances.

    Args:
        router: Chooses among the instances.
        clients: Connections by URL.
        clock: Monotonic seconds.
        emit: Called for every request as for one run.
    """

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
        self._path = f"/v2/models/{quote(document.model or id.name, safe='')}{version}/infer"

    def __repr__(self) -> str:
        return f"<RoutedModel {self.id}, {len(self.router.instances)} instances, {self.running} running>"

    @property
    def capabilities(self) -> Capabilities:
        """Return the engine's capabilities: one response to each request."""
        return PLAIN

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
        bound = self._admission.bind(request)
        if self._is_closed:
            raise closing(self.id)
        began = self._clock()
        deadline = due(deadline, began, self._timeout_ms)
        self.running += 1
        ok = False
        try:
            response = await self._attempts(bound, began, deadline)
            ok = True
            return response
        finally:
            self.running -= 1
            took = self._clock() - began
            self._emit(BatchRan(self.id.name, self.id.version, bound.rows, 1, took, 0.0, 0.0, "steps", ok))

    async def close(self) -> None:
        """Reject new requests and close the connections."""
        self._is_closed = True
        for client in self.clients.values():
            await client.close()

    async def _attempts(self, bound: BoundRequest, began: float, deadline: float | None) -> InferResponse:
        request, router, clock = bound.request, self.router, self._clock
        headers, body = _encoded(request, began, deadline)
        # A sequence continues where it began, and its step must not run twice.
        is_repeatable = not request.parameters.get("sequence_id")
        key = str(request.parameters.get(self.document.key, "")) if self.document.key else ""
        router.budget.request()
        tried: list[str] = []
        error: SalverError = NotReady(f"no instance of model '{self.id.name}' is there", field="model")
        for _ in range(self.document.attempts):
            now = clock()
            if deadline is not None and now >= deadline:
                raise DeadlineExceeded(LATE)
            instance = router.choose(key, tried, now)
            if instance is None:
                if not tried and router.is_full:
                    raise full(so_many(self.running))
                break
            router.retries += bool(tried)
            tried.append(instance.url)

            def ask(one: Instance) -> Coroutine[Any, Any, Reply]:
                client = self.clients[one.url]
                sent = client.request("POST", self._path, body, [*headers, *self._headers])
                return self._ask(one, client.send(sent), deadline)

            try:
                if is_repeatable and self.document.hedge and self._usual.is_known:
                    reply = await self._hedged(instance, ask, key, tried)
                else:
                    reply = await ask(instance)
                if self.document.hedge:
                    self._usual.add(clock() - now)
                return self._response(bound, reply, now)
            except _Failed as failure:
                error = failure.error
                if not failure.is_unsent and not (is_repeatable and router.budget.take()):
                    break
        raise error

    async def _hedged(
        self,
        instance: Instance,
        ask: Callable[[Instance], Coroutine[Any, Any, Reply]],
        key: str,
        tried: list[str],
    ) -> Reply:
        """Ask an instance and, if it takes longer than usual, another one; return the first answer."""
        tasks = [asyncio.ensure_future(ask(instance))]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._usual.seconds)
            if not done:
                other = self.router.choose(key, tried, self._clock())
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

    async def _ask(self, instance: Instance, answer: Awaitable[Reply], deadline: float | None) -> Reply:
        """Return an instance's answer to one attempt. Raises _Failed where another one may follow."""
        router, began, limit = self.router, self._clock(), self.document.attempt_s
        if deadline is not None:
            limit = min(limit, deadline - began)
        outcome: Outcome = "left"
        router.begin(instance)
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
            router.end(instance, outcome, now - began, now)

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
        now = self._clock()
        timing = Timing(
            inference=now - began, batch_rows=bound.rows, reason="steps", arrived=began, ended=now
        )
        return InferResponse(request.model, self.id.version, outputs, request.id, timing=timing)


class _Failed(Exception):
    """Failed attempt after which another one may follow.

    Attributes:
        is_unsent: The instance has not seen the request.
    """

    def __init__(self, error: SalverError, *, is_unsent: bool = False) -> None:
        self.error = error
        self.is_unsent = is_unsent


def _encoded(
    request: InferRequest, now: float, deadline: float | None
) -> tuple[list[tuple[str, str]], bytes]:
    parameters: dict[str, Parameter] = dict(request.parameters)
    if deadline is not None:
        parameters["timeout"] = max(1, int((deadline - now) * 1e6))
    outputs = [output.name for output in request.outputs]
    return encode_request(request.inputs, outputs=outputs, id=request.id, parameters=parameters)
