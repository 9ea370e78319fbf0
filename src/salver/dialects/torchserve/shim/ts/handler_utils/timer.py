"""Timing of a handler's steps, if its model's configuration has ``handler: {profile: true}``.

The metrics are ``ts_handler_preprocess``, ``…_inference`` and ``…_postprocess``, in milliseconds.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch


def timed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is timed if the model's configuration wants it."""

    @functools.wraps(step)
    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _wants_times(getattr(self, "context", None)):
            return step(self, *args, **kwargs)
        stop = _start()
        result = step(self, *args, **kwargs)
        self.context.metrics.add_time(f"ts_handler_{step.__name__}", stop())
        return result

    return measured


def _wants_times(context: Any) -> bool:
    if not context or not context.model_yaml_config:
        return False
    handler = context.model_yaml_config.get("handler")
    return isinstance(handler, dict) and bool(handler.get("profile"))


def _start() -> Callable[[], float]:
    """Start a clock; return a function that stops it and returns milliseconds. On a GPU, the GPU measures."""
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        return lambda: (time.perf_counter() - begun) * 1000
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()

    def stop() -> float:
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last))

    return stop
