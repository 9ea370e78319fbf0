"""What is told of where a model runs, beside what real servers tell (``tests/features/cluster``)."""

from types import SimpleNamespace
from typing import Any

import pytest

from salver.features.management.placement import batch_of, placement_operation, waits_for
from salver.words.artifacts import Batching
from salver.words.errors import NotFound
from salver.words.messages import ModelId


async def test_of_a_model_that_did_not_load_the_reason_is_told() -> None:
    status = SimpleNamespace(id=ModelId("big", "1"), reason="model 'big:1' has no place on the cluster")
    control: Any = SimpleNamespace(statuses=lambda: [status])
    asked: Any = SimpleNamespace(names={"model": "big"})
    with pytest.raises(NotFound, match="'big' is not loaded here; model 'big:1' has no place"):
        await placement_operation(control, tuple, None).run(asked)


def test_batches_in_words() -> None:
    window = Batching(max_delay_ms=5)
    assert batch_of("half-floor", window) == "an idle instance takes what waits"
    assert "learned table" in batch_of("learned", window)
    assert "one by one" in batch_of("", window)
    assert waits_for(0, 2, 2) == "nothing waits"
    assert waits_for(2, 1, 2) == "2 requests wait for their batch to fill"
