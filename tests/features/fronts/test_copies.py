"""Which models fronts run themselves."""

from typing import Any

import pytest
from msgspec.structs import replace

from salver.configuration import ServeConfig
from salver.features import FrontsConfig
from salver.features.fronts.copies import MOST_BYTES, can_copy
from salver.kernel.engine.placement import Placement
from salver.kernel.serving.capabilities import PLAIN, Capabilities
from salver.words.artifacts import Batching, Manifest, ModelConfig, Objective, Priorities, Queue
from salver.words.errors import InvalidInput
from salver.words.messages import ModelId, Signature


class Fake:
    """What is looked at of a servable."""

    def __init__(self, **changes: Any) -> None:
        self.manifest = Manifest(ModelId("m", "1"), None, "onnx", "onnx", bytes=10)  # type: ignore[arg-type]
        self.capabilities = Capabilities(post=lambda *_: None, foresee=lambda call: None)  # type: ignore[arg-type, return-value]
        self.signature = Signature((), ())
        self.placement = Placement("thread", 1, 1)
        self.signatures: Any = None
        for name, value in changes.items():
            setattr(self, name, value)


def manifest(**changes: Any) -> dict[str, Any]:
    return {"manifest": replace(Fake().manifest, **changes)}


def config(**changes: Any) -> dict[str, Any]:
    return manifest(config=ModelConfig(**changes))


def capabilities(**changes: Any) -> dict[str, Any]:
    return {"capabilities": replace(Fake().capabilities, **changes)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        config(batching=Batching(max_rows=8)),
        config(labels={"stable": "1"}),
        config(timeout_ms=5),
        config(objective=Objective(latency_p99_ms=50)),
    ],
)
def test_what_needs_nothing_of_the_home_process(changes: dict[str, Any]) -> None:
    assert can_copy(Fake(**changes), is_native=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"placement": Placement("process", 1, 1)},
        {"signatures": object()},
        {"signature": Signature((), (), is_stateful=True)},
        {"capabilities": PLAIN},
        capabilities(owns_timeout=True),
        capabilities(asks_others=True),
        capabilities(recording=object()),
        capabilities(uncached=object()),
        manifest(bytes=MOST_BYTES + 1),
        manifest(brought="files"),
        config(queue=Queue()),
        config(response_cache=True),
        config(priorities=Priorities(levels=2)),
        config(batching=Batching(policy="learned")),
    ],
)
def test_what_one_process_has_to_decide(changes: dict[str, Any]) -> None:
    assert not can_copy(Fake(**changes), is_native=True)  # type: ignore[arg-type]


def test_what_may_block_or_run_python() -> None:
    assert not can_copy(Fake(), is_native=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, 257])
def test_a_number_of_fronts_that_cannot_be(count: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 256 fronts"):
        ServeConfig(tables={"fronts": {"count": count}}).table("fronts", FrontsConfig)
