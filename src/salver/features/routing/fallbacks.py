"""Answers in place of a model that is overloaded, fails, or is too slow.

A model's configuration names what answers instead, by cause: another model of the server, or a constant.
Such an answer is marked by the parameter ``fallback``, and counted.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from salver.encoding.values import from_json
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.fetching import Loads
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Fallback, Manifest
from salver.words.errors import DeadlineExceeded, LoadFailed, ModelFailed, NotReady, Overloaded, SalverError
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, Signature, Standing
from salver.words.tensor import Array, Tensor

_LOG = logging.getLogger("salver.routing")
MARK: Final = "fallback"
CONSTANT: Final = "constant"
_MOST: Final = 10


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
    """

    def __init__(self, loader: Loads, inner: Inner, clock: Callable[[], float]) -> None:
        self._loader = loader
        self._inner = inner
        self._clock = clock
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.fetching.Loads`.

        Raises:
            LoadFailed: the fallbacks do not fit the model.
        """
        servable = await self._loader.load(manifest)
        try:
            Fallbacks(servable, self._inner, self._clock, self._counts)
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
        counts: Counter[tuple[str, str, str, str]],
    ) -> None:
        manifest = servable.manifest
        self._id = manifest.id
        self._signature: Signature = servable.signature
        self._chain: Sequence[Fallback] = manifest.config.fallbacks
        self._inner = inner
        self._clock = clock
        self._counts = counts
        if servable.capabilities.stream is not None or servable.capabilities.sequences is not None:
            raise LoadFailed("a model that streams or keeps sequences has no fallbacks", field="fallbacks")
        if len(self._chain) > _MOST:
            raise LoadFailed(f"there are at most {_MOST} fallbacks", field="fallbacks")
        self._constants = [self._constant(number, each) for number, each in enumerate(self._chain)]
        servable.guard(self._wrap)

    def __repr__(self) -> str:
        return f"<Fallbacks of {self._id}, {len(self._chain)} in the chain>"

    def _constant(self, number: int, fallback: Fallback) -> dict[str, Array]:
        field = f"fallbacks[{number}]"
        if bool(fallback.model) is bool(fallback.constant):
            raise LoadFailed("it needs a model or a constant, and not both", field=field)
        if fallback.model == self._id.name and fallback.version in ("", self._id.version):
            raise LoadFailed("a model is no fallback of its own", field=field)
        if not fallback.constant:
            return {}
        specs = {spec.name: spec for spec in self._signature.outputs}
        if set(specs) != set(fallback.constant):
            raise LoadFailed(f"the constant needs the outputs {', '.join(specs)}", field=f"{field}.constant")
        found = {}
        for name, value in fallback.constant.items():
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
                answer = await self._instead(request, deadline, standing, cause_of(error))
                if answer is None:
                    raise
                return answer

        return guarded

    async def _instead(
        self, request: InferRequest, deadline: float | None, standing: Standing, cause: str
    ) -> InferResponse | None:
        """Return the first answer that the chain gives; None = it gives none."""
        for fallback, constant in zip(self._chain, self._constants, strict=True):
            now = self._clock()
            if cause not in fallback.on or (deadline is not None and now >= deadline):
                continue
            if constant:
                answer, to = self._repeated(request, constant), CONSTANT
            else:
                to = fallback.model
                asked = msgspec.structs.replace(request, model=to, version=fallback.version)
                try:
                    answer = await self._inner.infer(
                        asked, Call("fallback", now, deadline, standing=standing)
                    )
                except SalverError as error:
                    _LOG.debug("fallback %s of %s: %s", to, self._id, error)
                    continue
            self._counts[self._id.name, self._id.version, cause, to] += 1
            parameters = {**answer.parameters, MARK: to}
            return msgspec.structs.replace(
                answer, model=request.model, version=self._id.version, parameters=parameters
            )
        return None

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
