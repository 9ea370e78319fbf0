"""Every number of a configuration has a bound, and what is beyond it is refused by name, not tried."""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.configuration import ServeConfig
from salver.dialects.triton.config.pbtxt import parse_json, parse_pbtxt
from salver.kernel.repository import bounds
from salver.kernel.repository.bounds import Machine, misfit
from salver.kernel.repository.settings import read_settings
from salver.kernel.repository.toml import parse_toml
from salver.parts import formats
from salver.stores import FileStore
from salver.transport.watch import ConnectionLimits
from salver.words.artifacts import (
    Batching,
    Instances,
    ModelConfig,
    Sequences,
    SequenceState,
    Steps,
    Warmup,
    WarmupInput,
    WarmupSample,
)
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType

SMALL = Machine(2, 16 << 30)


def numbers_of(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, type]]:
    """Paths of all numbers in a type's fields, how a value is written there, and the number's type."""
    if get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from numbers_of(part, path)
    elif get_origin(kind) is tuple:
        yield from ((p, lambda v, w=w: [w(v)], t) for p, w, t in numbers_of(get_args(kind)[0], path))
    elif get_origin(kind) is dict:
        key = 1 if get_args(kind)[0] is int else "k"
        yield from ((p, lambda v, w=w: {key: w(v)}, t) for p, w, t in numbers_of(get_args(kind)[1], path))
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for name, part in get_type_hints(kind).items():
            for p, w, t in numbers_of(part, (*path, name)):
                yield p, lambda v, w=w, n=name: {n: w(v)}, t
    elif kind in (int, float):
        yield path, lambda v: v, kind


ALL: dict[str, tuple[Any, Any]] = {
    ".".join(path): (write, kind) for path, write, kind in numbers_of(ModelConfig)
}


def fill(told: Any, kind: Any) -> Any:
    """With what the struct's other fields need."""
    if isinstance(told, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        made = {name: fill(part, get_type_hints(kind)[name]) for name, part in told.items()}
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in made:
                made[field.name] = {
                    "inputs": {}, "datatype": "FP32", "shape": [1], "kind": "start",
                }.get(field.name, "n")  # fmt: skip
        return made
    inner = [part for part in get_args(kind) if part is not type(None)]
    if isinstance(told, list):
        return [fill(told[0], inner[0])]
    if get_origin(kind) is dict:
        return {key: fill(part, inner[1]) for key, part in told.items()}
    return fill(told, inner[0]) if inner else told


def test_the_walk_finds_numbers_at_every_depth() -> None:
    assert {"instances.count", "warmup.samples.inputs.shape", "queue.levels.max_size"} <= ALL.keys()
    assert set(bounds._OF_MODEL) <= ALL.keys(), "the table names fields that are there"


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("value", [10**30, -(10**30), float("inf"), float("nan"), 2**63])
def test_what_no_machine_bears_is_refused_by_name(path: str, value: float) -> None:
    write, kind = ALL[path]
    if kind is int and not isinstance(value, int):
        return  # a type error of the decoder's
    try:
        config = msgspec.convert(fill(write(value), ModelConfig), ModelConfig, str_keys=True)
    except msgspec.ValidationError:
        return  # likewise: beyond 64 bits
    found = misfit(config, SMALL)
    if path not in bounds._OF_MODEL and kind is float and value == 2**63:
        return  # a number that nothing is made of, as a price
    limit: Any = bounds._OF_MODEL.get(path)
    if isinstance(limit, int) and value <= limit:
        return
    assert found is not None, path
    assert found.path == path
    assert "must be" in found.problem


@pytest.mark.parametrize("path", sorted(ALL.keys() - bounds._SIGNED))
def test_what_counts_something_is_not_negative(path: str) -> None:
    write, kind = ALL[path]
    config = msgspec.convert(fill(write(kind(-7)), ModelConfig), ModelConfig, str_keys=True)
    found = misfit(config, SMALL)
    assert found is not None and (found.path, found.problem) == (
        path,
        f"is {kind(-7)}, and must not be negative",
    )


@given(path=st.sampled_from(sorted(bounds._OF_MODEL)), beyond=st.integers(1, 1 << 70))
def test_one_beyond_the_bound_is_refused_with_the_figure(path: str, beyond: int) -> None:
    bound = bounds._OF_MODEL[path]
    most = int(bound(SMALL).value if callable(bound) else bound)
    write, kind = ALL[path]
    try:
        config = msgspec.convert(
            fill(write(kind(most + max(beyond, most >> 40))), ModelConfig), ModelConfig, str_keys=True
        )
    except msgspec.ValidationError:
        return
    found = misfit(config, SMALL)
    assert found is not None and found.path == path
    assert str(most) in found.problem


TRITON = [
    ({"instance_group": [{"count": 10**9}]}, "instance_group.count"),
    ({"instance_group": [{"count": 100}, {"count": 100}]}, "instance_group.count"),
    ({"max_batch_size": 2**31 - 1}, "max_batch_size"),
    (
        {"parameters": {"intra_op_thread_count": {"string_value": "1" * 4000}}},
        "parameters.intra_op_thread_count",
    ),
    ({"parameters": {"num_threads": {"string_value": "1000000"}}}, "parameters.intra_op_thread_count"),
    (
        {"sequence_batching": {"oldest": {"max_candidate_sequences": 2**31 - 1}}},
        "sequence_batching.oldest.max_candidate_sequences",
    ),
    (
        {
            "max_batch_size": 1,
            "sequence_batching": {
                "state": [
                    {"input_name": "a", "output_name": "b", "data_type": "TYPE_FP32", "dims": [10**6, 10**6]}
                ]
            },
        },
        "sequence_batching.state",
    ),
    (
        {"model_warmup": [{"name": "w", "batch_size": 1, "count": 2**31}]},
        "model_warmup.count",
    ),
    (
        {
            "model_warmup": [
                {
                    "name": "w",
                    "batch_size": 2**20,
                    "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [2**20], "zero_data": True}},
                }
            ]
        },
        "model_warmup.inputs.dims",
    ),
]


@pytest.mark.parametrize(("told", "field"), TRITON)
def test_a_triton_configuration_is_refused_in_its_own_words(
    told: dict[str, Any], field: str, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    settings = read_settings(FileStore(tmp_path), "m", "m", formats(lambda path: None), json.dumps(told))
    assert f"`{field}`" in settings.problem, settings.problem
    assert "must be at most" in settings.problem or "at most" in settings.problem or "of " in settings.problem


def test_a_file_says_where(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text("instance_group { count: 1000000000 }")
    problem = read_settings(FileStore(tmp_path), "m", "m", formats(lambda path: None)).problem
    assert problem.startswith(f"{tmp_path}/m/config.pbtxt: `instance_group.count` is 1000000000")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[instances]\ncount = 1000000000", "instances.count"),
        ("[instances]\nthreads = 1000000000", "instances.threads"),
        ("[steps]\nvocabulary = 'bytes'\nmax_sequences = 1000000000", "steps.max_sequences"),
        ("[warmup]\nrounds = 1000000000", "warmup.rounds"),
        ("[batching]\nmax_queue = 9223372036854775807", "batching.max_queue"),
        ("[batching]\nsizes = [1, 1000000000]\nmax_rows = 1000000000", "batching.max_rows"),
        ("timeout_ms = 1e300", "timeout_ms"),
        ("[logging]\nmax_mb = 9000000000", "logging.max_mb"),
    ],
)
def test_salver_toml_is_refused_with_the_line(text: str, key: str) -> None:
    with pytest.raises(InvalidInput, match=rf"line \d: key `{key}`: .*must be at most \d+") as caught:
        parse_toml(text.encode(), "salver.toml")
    assert caught.value.field == key


TOGETHER = [
    (ModelConfig(instances=Instances(count=100, threads=100)), "instances.threads"),
    (ModelConfig(instances=Instances(count=4, max_count=2)), "instances.max_count"),
    (
        ModelConfig(
            batching=Batching(max_rows=1 << 20), sequences=Sequences("direct"), instances=Instances(count=10)
        ),
        "sequences.candidates",
    ),
    (
        ModelConfig(steps=Steps(vocabulary="bytes", max_sequences=1 << 16, max_context=1 << 24)),
        "steps.max_context",
    ),
    (
        ModelConfig(
            warmup=Warmup(samples=(WarmupSample({"x": WarmupInput(DataType.BYTES, (1 << 20, 1 << 20))}),))
        ),
        "warmup.samples",
    ),
    (
        ModelConfig(
            sequences=Sequences("oldest", states=(SequenceState("a", "b", DataType.BYTES, (1 << 33,)),))
        ),
        "sequences.states",
    ),
]


@pytest.mark.parametrize(("config", "path"), TOGETHER)
def test_numbers_that_are_too_much_together_are_refused(config: ModelConfig, path: str) -> None:
    found = misfit(config, SMALL)
    assert found is not None and found.path == path


def test_what_is_usual_passes() -> None:
    for config in (
        ModelConfig(),
        ModelConfig(instances=Instances(count=64, threads=4), batching=Batching(max_rows=4096)),
        parse_pbtxt(b"max_batch_size: 1024 instance_group { count: 8 }", "config.pbtxt", "m").config,
        parse_json('{"dynamic_batching": {"max_queue_delay_microseconds": 100}}', "m").config,
    ):
        assert misfit(config, SMALL) is None


@pytest.mark.parametrize(
    "told",
    [
        {"instances": 10**9},
        {"threads": 10**9},
        {"instances": -5},
        {"threads": -1},
        {"poll_seconds": -1.0},
        {"poll_seconds": float("nan")},
        {"poll_seconds": float("inf")},
        {"max_body_mb": 1e18},
        {"max_message_mb": 10**6},
        {"max_bodies_mb": -4},
        {"max_bodies_mb": 1e18},
        {"connections": ConnectionLimits(per_address=-4)},
        {"connections": ConnectionLimits(least_rate=-4.0)},
        {"connections": ConnectionLimits(least_rate=1e18)},
        {"resources": {"R": -1}},
        {"resources": {"R": 10**17}},
        {"grpc_compression": 10},
    ],
)
def test_the_servers_own_numbers_are_refused(told: dict[str, Any]) -> None:
    (name,) = told
    with pytest.raises(InvalidInput, match=rf"^{name}[.\w]* is .*must (be|not be)"):
        ServeConfig(**told)
