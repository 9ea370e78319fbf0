"""Configurations that are written as ``salver.toml`` are read as what they were."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.repository.toml import parse_toml
from salver.kernel.repository.toml_writer import to_toml
from salver.words.artifacts import Batching, Logging, ModelConfig, Objective, Queue, Versions
from salver.words.errors import Unsupported
from salver.words.messages import TensorSpec
from salver.words.tensor import DataType

CONFIGS = [
    ModelConfig(),
    ModelConfig(batching=Batching(max_rows=8, sizes=(2, 8), max_delay_ms=0.5)),
    ModelConfig(versions=Versions(specific=("1", "3")), labels={"stable": "1", "a b": "3"}),
    ModelConfig(options={"tags": 'serve"\\\n\x7fé'}),
    ModelConfig(inputs=(TensorSpec("x", DataType.FP32, (-1, 2)),)),
    ModelConfig(queue=Queue(max_size=3, levels={})),
    ModelConfig(objective=Objective(throughput=True)),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_is_read_as_it_was(config: ModelConfig) -> None:
    assert parse_toml(to_toml(config, "a comment").encode(), "m/salver.toml") == config


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()), st.floats(0, 1), st.integers(1, 1000))
def test_any_text_and_number(name: str, options: dict[str, str], rate: float, rows: int) -> None:
    config = ModelConfig(
        filename=name, options=options, logging=Logging(rate=rate), batching=Batching(max_rows=rows)
    )
    assert parse_toml(to_toml(config).encode(), "m/salver.toml") == config


def test_what_cannot_be_written_is_refused() -> None:
    labelled = TensorSpec("x", DataType.FP32, (-1,), labels=("a",))
    config = ModelConfig(outputs=(labelled,))
    try:
        text = to_toml(config)
    except Unsupported:
        return
    assert parse_toml(text.encode(), "m/salver.toml") == config


def test_only_what_is_said_is_written() -> None:
    config = msgspec.structs.replace(ModelConfig(), batching=Batching(max_rows=4))
    assert to_toml(config) == "[batching]\nmax_rows = 4\n"
