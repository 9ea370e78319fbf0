"""Micro-batches: the handler's answers, and steps that raise."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from handler_runs import Context, ask
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.handler_utils.micro_batching import HANDLER_METHODS, MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class Rows(BaseHandler):
    """Doubles rows; a negative number is too much for the step that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.model = lambda x: x * 2
        self.threads: dict[str, set[str]] = {step: set() for step in HANDLER_METHODS}
        self.parts: list[int | None] = []
        self.handle: Any = MicroBatching(self, micro_batch_size=2)  # type: ignore[method-assign]

    def preprocess(self, data: Any) -> Any:
        self._note("preprocess", -1 in [row["body"] for row in data])
        self.parts.append(self.handle.get_micro_batch_idx())
        return super().preprocess([row["body"] for row in data])

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("inference", -2 in data)
        return super().inference(data)

    def postprocess(self, data: Any) -> Any:
        self._note("postprocess", -6 in data)
        return super().postprocess(data)

    def _note(self, step: str, fails: bool) -> None:
        self.threads[step].add(threading.current_thread().name)
        if fails:
            raise ValueError(step)

    def describe_handle(self) -> Any:
        return {"described": True}

    def get_insights(self, tensor_data: Any, inputs: Any, target: Any = 0) -> Any:
        return ["why"] * len(tensor_data)


@pytest.fixture
def handler() -> Any:
    made = Rows()
    yield made
    made.handle.shutdown()


@pytest.fixture
def context() -> Context:
    return Context(Path("/"))


@pytest.mark.clause("TS-A10")
@pytest.mark.parametrize("parallelism", [{}, {"inference": 3}, {"preprocess": 2, "postprocess": 2}])
def test_parts_of_a_batch_come_back_in_order(
    handler: Any, context: Context, parallelism: dict[str, int]
) -> None:
    handler.handle.parallelism = parallelism
    assert handler.handle.parallelism == parallelism
    assert ask(handler, context, *range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert handler.threads == {step: {step} for step in HANDLER_METHODS}  # each on threads of its own
    assert sorted(handler.parts) == [0, 1, 2, 3] and handler.handle.get_micro_batch_idx() is None
    assert context.metrics.names() == ["HandlerTime"]
    assert handler.context is context


@pytest.mark.clause("TS-A10")
@settings(max_examples=30)
@given(st.lists(st.integers(0, 99), max_size=9), st.integers(1, 4), st.integers(1, 3))
def test_any_batch_any_part_any_number_of_threads(rows: list[int], size: int, threads: int) -> None:
    made: Any = Rows()
    made.handle.micro_batch_size = size
    made.handle.parallelism = dict.fromkeys(HANDLER_METHODS, threads)
    assert ask(made, Context(Path("/")), *rows) == [row * 2 for row in rows]
    made.handle.shutdown()


@pytest.mark.clause("TS-A10")
@pytest.mark.parametrize(("row", "step"), [(-1, "preprocess"), (-2, "inference"), (-3, "postprocess")])
def test_a_step_that_raises_fails_its_batch_and_no_other(
    handler: Any, context: Context, row: int, step: str
) -> None:
    with pytest.raises(ValueError, match=step):
        ask(handler, context, 1, 2, 3, row, 5)
    assert ask(handler, context, 1, 2, 3) == [2, 4, 6]


@pytest.mark.clause("TS-A10")
def test_threads_come_and_go(handler: Any, context: Context) -> None:
    groups = handler.handle.thread_groups
    handler.handle.parallelism = {"inference": 4}
    assert [len(groups[step]) for step in HANDLER_METHODS] == [1, 4, 1]
    handler.handle.parallelism = {"inference": 2}
    assert [len(groups[step]) for step in HANDLER_METHODS] == [1, 2, 1]
    assert ask(handler, context, 1, 2, 3) == [2, 4, 6]
    running = [thread for group in groups.values() for thread in group]
    handler.handle.shutdown()
    assert not any(thread.is_alive() for thread in running)
    assert all(not group for group in groups.values())


@pytest.mark.clause("TS-A10")
@pytest.mark.parametrize("parallelism", [{"inference": 0}, {"infer": 1}])
def test_a_step_has_a_thread_and_a_known_name(parallelism: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1, of one of preprocess, inference, postprocess"):
        MicroBatching(Rows(), parallelism=parallelism)


@pytest.mark.clause("TS-A10")
def test_descriptions_and_explanations_pass_the_threads_by(handler: Any, context: Context) -> None:
    assert ask(handler, context, 1, describe="True") == [{"described": True}]
    assert ask(handler, context, 1, 2, explain="True") == ["why", "why"]
    assert handler.threads["inference"] == set()


@pytest.mark.clause("TS-A10", "TS-B12")
def test_profiled_as_the_handler_itself(
    handler: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    handler.profiler_args = {
        "activities": [torch.profiler.ProfilerActivity.CPU],
        "on_trace_ready": lambda profiler: None,
    }
    assert ask(handler, context, 1, 2) == [2, 4]
