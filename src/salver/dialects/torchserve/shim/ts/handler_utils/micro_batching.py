"""How do the steps of a handler work at the same time, on parts of one batch?

A batch falls into micro-batches, which pass from step to step by queues, each step on threads of its own
(TS-A10). Knows nothing of what the steps do. A step that raises fails the batch; in TorchServe it hung.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

HANDLER_METHODS: Final = ["preprocess", "inference", "postprocess"]
_Queue = queue.SimpleQueue[Any]


@dataclass(frozen=True)
class _Failed:
    """In the place of a micro-batch, from the step on that raised."""

    error: Exception


def execute_call(given: _Queue, done: _Queue, step: Callable[[Any], Any], here: threading.local) -> None:
    """One thread of one step, until it is given None."""
    while (item := given.get()) is not None:
        here.micro_batch_idx, data = item
        if not isinstance(data, _Failed):
            try:
                data = step(data)
            except Exception as error:
                data = _Failed(error)
        done.put((here.micro_batch_idx, data))


class MicroBatching:
    """What a handler puts in place of its ``handle``: ``self.handle = MicroBatching(self, 4)``.

    Args:
        micro_batch_size: Requests of a part.
        parallelism: Threads of each step; a step that is not named has one.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.thread_groups: dict[str, list[threading.Thread]] = {step: [] for step in HANDLER_METHODS}
        self.thread_local_data = threading.local()
        self._parallelism: dict[str, int] = {}
        between: list[_Queue] = [queue.SimpleQueue() for _ in range(len(HANDLER_METHODS) + 1)]
        self.queues = {f"{step}_in": between[i] for i, step in enumerate(HANDLER_METHODS)}
        self.queues |= {f"{step}_out": between[i + 1] for i, step in enumerate(HANDLER_METHODS)}
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads of each step that was named; set it to have more or fewer."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        for step, threads in parallelism.items():
            if step not in HANDLER_METHODS or threads < 1:
                raise ValueError(
                    f"micro-batching's parallelism of '{step}' is {threads}; it is at least 1, of one of "
                    f"{', '.join(HANDLER_METHODS)}"
                )
        self._parallelism.update(parallelism)
        for step in HANDLER_METHODS:
            self._have(step, self._parallelism.get(step, 1))

    def shutdown(self) -> None:
        """End all threads."""
        for step in HANDLER_METHODS:
            self._have(step, 0)

    def _have(self, step: str, threads: int) -> None:
        group = self.thread_groups[step]
        for _ in range(threads - len(group)):
            arguments = (
                self.queues[f"{step}_in"],
                self.queues[f"{step}_out"],
                getattr(self.handler, step),
                self.thread_local_data,
            )
            thread = threading.Thread(target=execute_call, args=arguments, name=step, daemon=True)
            thread.start()
            group.append(thread)
        for _ in range(len(group) - threads):
            self.queues[f"{step}_in"].put(None)
        while len(group) > threads:
            group[:] = [thread for thread in group if not _has_ended(thread)]

    def handle(self, data: Any) -> list[Any]:
        """The answers to a batch, in its order.

        Raises:
            Exception: what a step has raised of one of its parts.
        """
        starts = range(0, len(data), self.micro_batch_size)
        for number, start in enumerate(starts):
            self.queues["preprocess_in"].put((number, data[start : start + self.micro_batch_size]))
        parts = dict([self.queues["postprocess_out"].get() for _ in starts])
        for part in parts.values():
            if isinstance(part, _Failed):
                raise part.error
        return [answer for number in sorted(parts) for answer in parts[number]]

    def get_micro_batch_idx(self) -> int | None:
        """Which part of its batch the calling thread works on."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def __call__(self, data: Any, context: Any) -> Any:
        """As a handler's ``handle``; explanations and descriptions pass the threads by."""
        begun = time.time()
        handler = self.handler
        handler.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = handler._infer_with_profiler(data=data)
        elif handler._is_describe():
            output = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        took_ms = round((time.time() - begun) * 1000, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return output


def _has_ended(thread: threading.Thread) -> bool:
    thread.join(0.01)
    return not thread.is_alive()
