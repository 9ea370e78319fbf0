"""Answers in place of a model that is overloaded, fails, or is too slow.

A model's configuration names what answers instead, by cause: another model or version, a constant, an old
answer from the response cache, or a refusal. Such an answer is marked by the parameter ``fallback``, and all
are counted.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

import msgspec
import numpy as np
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from salver.encoding.values import from_json
from salver.kernel.lifecycle.policy import version_key
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.fetching import Loads
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Fallback, Manifest
from salver.words.errors import DeadlineExceeded, LoadFailed, ModelFailed, NotReady, Overloaded, SalverError
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, ModelId, Signature, Standing
from salver.words.tensor import Array, Tensor

_LOG = logging.getLogger("salver.routing")
MARK: Final = "fallback"
CONSTANT: Final = "constant"
CACHED: Final = "cached"
REFUSED: Final = "refused"
_PREVIOUS: Final = "previous"
_MOST: Final = 10
#: Models that could not answer the current request: none is asked again in place of another.
_FAILED: Final[ContextVar[tuple[ModelId, ...]]] = ContextVar("salver.fallbacks", default=())


def cause_of(error: SalverError) -> str:
    """Return the cause for which a model gives no answer; empty = the request itself is wrong.

    >>> [cause_of(error) for error in (Overloaded("full"), ModelFailed("it raised"), SalverError("?"))]
    ['overload', 'failure', '']
    """
    match error:
        case Overloaded():
            return "overload"
        case DeadlineExceeded():
            return "deadline"
        case ModelFailed() | NotReady():
            return "failure"
    return ""


class FallbackLoader:
    """Loader that puts fallbacks before the models that have some.

    Args:
        loader: Loads the models.
        inner: Asks other models of the server.
        clock: Monotonic seconds.
        ready: Returns the versions that are ready, of all models.
    """

    def __init__(
        self,
        loader: Loads,
        inner: Inner,
        clock: Callable[[], float],
        ready: Callable[[], Iterable[ModelId]],
    ) -> None:
        self._loader = loader
        self._inner = inner
        self._clock = clock
        self._ready = ready
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.fetching.Loads`.

        Raises:
            LoadFailed: the fallbacks do not fit the model.
        """
        servable = await self._loader.load(manifest)
        try:
            Fallbacks(servable, self._inner, self._clock, self._ready, self._counts)
        except BaseException:
            await servable.close()
            raise
        return servable

    def collect(self) -> Iterator[Metric]:
        """Return the metric family; called by the Prometheus registry."""
        labels = ("model", "version", "cause", "to")
        family = CounterMetricFamily("salver_fallbacks", "Answers in place of a model.", labels=labels)
        for key, count in self._counts.items():
            family.add_metric(key, count)
        yield family


class Fallbacks:
    """Fallbacks of one loaded version.

    Raises:
        LoadFailed: they do not fit the model.
    """

    def __init__(
        self,
        servable: Servable,
        inner: Inner,
        clock: Callable[[], float],
        ready: Callable[[], Iterable[ModelId]],
        counts: Counter[tuple[str, str, str, str]],
    ) -> None:
        manifest = servable.manifest
        self._id = manifest.id
        self._signature: Signature = servable.signature
        self._chain: Sequence[Fallback] = manifest.config.fallbacks
        self._inner = inner
        self._clock = clock
        self._ready = ready
        self._counts = counts
        self._stale = servable.capabilities.stale
        if servable.capabilities.stream is not None or servable.capabilities.sequences is not None:
            raise LoadFailed("a model that streams or keeps sequences has no fallbacks", field="fallbacks")
        if len(self._chain) > _MOST:
            raise LoadFailed(f"there are at most {_MOST} fallbacks", field="fallbacks")
        for number, each in enumerate(self._chain):
            self._check(f"fallbacks[{number}]", each)
        self._constants = [
            self._constant(f"fallbacks[{number}]", each.constant) for number, each in enumerate(self._chain)
        ]
        servable.guard(self._wrap)

    def __repr__(self) -> str:
        return f"<Fallbacks of {self._id}, {len(self._chain)} in the chain>"

    def _check(self, field: str, fallback: Fallback) -> None:
        ways = (fallback.model or fallback.version, fallback.constant, fallback.cached_s, fallback.refuse)
        if sum(map(bool, ways)) != 1:
            raise LoadFailed("it needs one of model, version, constant, cached_s, refuse", field=field)
        if not fallback.model and fallback.version not in ("", _PREVIOUS):
            raise LoadFailed(f'without a model it is "{_PREVIOUS}"', field=f"{field}.version")
        if fallback.model == self._id.name and fallback.version in ("", self._id.version):
            raise LoadFailed("a model is no fallback of its own", field=field)
        if fallback.cached_s and self._stale is None:
            raise LoadFailed(
                "no expired answers are kept",
                field=f"{field}.cached_s",
                fix="Set response_cache = true, and give the server a local cache with ttl_seconds.",
            )

    def _constant(self, field: str, constant: dict[str, Any]) -> dict[str, Array]:
        if not constant:
            return {}
        specs = {spec.name: spec for spec in self._signature.outputs}
        if set(specs) != set(constant):
            raise LoadFailed(f"the constant needs the outputs {', '.join(specs)}", field=f"{field}.constant")
        found = {}
        for name, value in constant.items():
            spec = specs[name]
            shape = spec.shape[1:] if self._signature.batched else spec.shape
            try:
                nested = np.asarray(value)
                array: Array = from_json(nested.ravel().tolist(), spec.datatype, name).reshape(nested.shape)
            except (ValueError, TypeError, SalverError) as error:
                raise LoadFailed(f"{error}", field=f"{field}.constant.{name}") from error
            if len(array.shape) != len(shape) or any(
                there not in (-1, given) for there, given in zip(shape, array.shape, strict=True)
            ):
                raise LoadFailed(
                    f"its shape is {list(array.shape)}, not {list(shape)}", field=f"{field}.constant.{name}"
                )
            found[name] = array
        return found

    def _wrap(self, infer: Infer) -> Infer:
        async def guarded(
            request: InferRequest,
            deadline: float | None = None,
            sender: Hashable = None,
            standing: Standing = ANYBODY,
        ) -> InferResponse:
            try:
                return await infer(request, deadline, sender, standing)
            except SalverError as error:
                answer = await self._instead(request, deadline, standing, error)
                if answer is None:
                    raise
                return answer

        return guarded

    async def _instead(
        self, request: InferRequest, deadline: float | None, standing: Standing, error: SalverError
    ) -> InferResponse | None:
        """Return the first answer that the chain gives; None = it gives none.

        Raises:
            Overloaded: the chain refuses the request.
        """
        cause, failed = cause_of(error), _FAILED.get()
        if self._id in failed:
            return None
        token = _FAILED.set((*failed, self._id))
        try:
            for fallback, constant in zip(self._chain, self._constants, strict=True):
                now = self._clock()
                if cause not in fallback.on or (deadline is not None and now >= deadline):
                    continue
                if fallback.refuse:
                    self._counts[self._id.name, self._id.version, cause, REFUSED] += 1
                    refusal = Overloaded(fallback.refuse, retry_after=fallback.retry_after_s)
                    refusal.why = error.why  # counted as the model's own error
                    raise refusal from error
                call = Call("fallback", now, deadline, standing=standing)
                answer, to = await self._answer(fallback, constant, request, call)
                if answer is None:
                    continue
                self._counts[self._id.name, self._id.version, cause, to] += 1
                parameters = {**answer.parameters, MARK: to}
                return msgspec.structs.replace(
                    answer, model=request.model, version=self._id.version, parameters=parameters
                )
        finally:
            _FAILED.reset(token)
        return None

    async def _answer(
        self, fallback: Fallback, constant: dict[str, Array], request: InferRequest, call: Call
    ) -> tuple[InferResponse | None, str]:
        """Return a fallback's answer, None if it gives none, and what gave it."""
        if constant:
            return self._repeated(request, constant), CONSTANT
        if fallback.cached_s and self._stale is not None:
            return await self._stale(request, fallback.cached_s), CACHED
        model, version, to = fallback.model, fallback.version, fallback.model
        if not model:
            model, version = self._id.name, self._previous()
            to = f"{model}:{version}"
            if not version:
                return None, to
        asked = msgspec.structs.replace(request, model=model, version=version, group="")
        try:
            return await self._inner.infer(asked, call), to
        except SalverError as error:
            _LOG.debug("fallback %s of %s: %s", to, self._id, error)
            return None, to

    def _previous(self) -> str:
        """Return the newest version below this one that is ready; empty = there is none."""
        own = version_key(self._id.version)
        versions = [id.version for id in self._ready() if id.name == self._id.name]
        older = (version for version in versions if version_key(version) < own)
        return max(older, key=version_key, default="")

    def _repeated(self, request: InferRequest, constant: dict[str, Array]) -> InferResponse:
        wanted = {output.name for output in request.outputs} or set(constant)
        rows = 0
        if self._signature.batched and request.inputs:
            rows = request.inputs[0].shape[0]
        outputs = []
        for spec in self._signature.outputs:
            if spec.name in wanted:
                array = constant[spec.name]
                if self._signature.batched:
                    array = np.repeat(array[None], rows, axis=0)
                outputs.append(Tensor(spec.name, spec.datatype, array))
        return InferResponse(request.model, self._id.version, tuple(outputs), request.id)
