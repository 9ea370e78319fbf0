"""Pipelining of a handler's steps over parts of a batch.

A batch is divided into micro-batches, which pass from step to step by queues, each step on threads of its own
(TS-A10). A step that raises fails the batch; in TorchServe it hangs.
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
    """Replacement of a micro-batch after a step has raised."""

    error: Exception


def execute_call(given: _Queue, done: _Queue, step: Callable[[Any], Any], here: threading.local) -> None:
    """Run a step on its queue, in a thread, until it gets None."""
    while (item := given.get()) is not None:
        here.micro_batch_idx, data = item
        if not isinstance(data, _Failed):
            try:
                data = step(data)
            except Exception as error:
                data = _Failed(error)
        done.put((here.micro_batch_idx, data))


class MicroBatching:
    """Replacement of a handler's ``handle``: ``self.handle = MicroBatching(self, 4)``.

    Args:
        micro_batch_size: Number of requests in a part.
        parallelism: Threads of each step; default 1.
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
        """Threads of each step that was named; can be set."""
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
        """Return the answers to a batch, in order.

        Raises:
            Exception: a step has raised it.
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
        """Return the index of the micro-batch that the calling thread works on."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def __call__(self, data: Any, context: Any) -> Any:
        """Run a batch as a handler's ``handle`` does; explanations and descriptions are not pipelined."""
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
