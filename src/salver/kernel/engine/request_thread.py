"""Runners on threads of models that take the requests of a batch one by one."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from salver.backends.protocol import Answer, RequestModel, RunnableModel, SizedModel
from salver.kernel.engine.thread import ThreadRunner
from salver.words.errors import ModelFailed, SalverError
from salver.words.messages import InferRequest
from salver.words.tensor import Array

_Answers = tuple[list[Answer | SalverError], float]


class RequestThreadRunner(ThreadRunner):
    """Runner of a :class:`~salver.backends.protocol.RequestModel`."""

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """See :class:`~salver.kernel.engine.ports.RequestRunner`."""
        result: Any = await self.run(cast(Mapping[str, Array], requests))
        return cast(_Answers, result)

    def _rows(self, inputs: Any) -> int:
        return 1 if isinstance(inputs, list) else super()._rows(inputs)

    def _call(self, model: RunnableModel, inputs: Any, rows: int) -> Any:
        if not isinstance(inputs, list):
            return super()._call(model, inputs, rows)
        return self._answers(cast(RequestModel, model), inputs)

    def _answers(self, model: RequestModel, requests: list[InferRequest]) -> _Answers:
        began = time.perf_counter()
        try:
            answers = model.answer(requests)
        except SalverError:
            raise
        except Exception as error:
            raise ModelFailed(f"model '{self._name}' raised {type(error).__name__}: {error}") from error
        return list(answers), time.perf_counter() - began


class SizedThreadRunner(RequestThreadRunner):
    """Runner of a :class:`~salver.backends.protocol.SizedModel`, which answers short requests inline."""

    def short_size(self, requests: Sequence[InferRequest]) -> int:
        """See :class:`~salver.kernel.engine.ports.InlineRequestRunner`."""
        sizes = [self._model.size_of(request) for request in requests]
        total = sum(sizes)
        if all(sizes) and self._pace.is_tiny(total):
            return total
        return 0

    def answer_inline(self, requests: list[InferRequest], size: int) -> _Answers:
        """See :class:`~salver.kernel.engine.ports.InlineRequestRunner`."""
        return self._measured(self._model, requests, size)

    @property
    def _model(self) -> SizedModel:
        return cast(SizedModel, self._models[0])

    def _answers(self, model: RequestModel, requests: list[InferRequest]) -> _Answers:
        return self._measured(model, requests, self._model.size_of(requests[0]))

    def _measured(self, model: RequestModel, requests: list[InferRequest], size: int) -> _Answers:
        cpu = time.thread_time()
        found = super()._answers(model, requests)
        # Several requests share work, so that their time says little of one alone.
        if len(requests) == 1 and size:
            self._pace.observe(size, min(found[1], (time.thread_time() - cpu) * self._threads_a_run))
        return found
