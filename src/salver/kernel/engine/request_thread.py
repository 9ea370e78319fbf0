"""Runner on threads of a model that takes the requests of a batch one by one."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from salver.backends.protocol import Answer, RequestModel, RunnableModel
from salver.kernel.engine.thread import ThreadRunner
from salver.words.errors import ModelFailed, SalverError
from salver.words.messages import InferRequest
from salver.words.tensor import Array


class RequestThreadRunner(ThreadRunner):
    """Runner of a :class:`~salver.backends.protocol.RequestModel`."""

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """See :class:`~salver.kernel.engine.ports.RequestRunner`."""
        result: Any = await self.run(cast(Mapping[str, Array], requests))
        return cast(tuple[Sequence[Answer | SalverError], float], result)

    def _rows(self, inputs: Any) -> int:
        return 1 if isinstance(inputs, list) else super()._rows(inputs)

    def _call(self, model: RunnableModel, inputs: Any, rows: int) -> Any:
        if not isinstance(inputs, list):
            return super()._call(model, inputs, rows)
        began = time.perf_counter()
        try:
            answers = cast(RequestModel, model).answer(inputs)
        except SalverError:
            raise
        except Exception as error:
            raise ModelFailed(f"model '{self._name}' raised {type(error).__name__}: {error}") from error
        return list(answers), time.perf_counter() - began
