from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.tuning.profile import (
    Cell,
    Machine,
    Measurement,
    PlacementLaw,
    Profile,
    from_bytes,
    key_of,
    to_bytes,
)
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Manifest, ModelConfig, Objective
from salver.words.errors import InvalidInput
from salver.words.messages import ModelId

MACHINE = Machine("cpu", 2, {"salver": "1"})
LAW = BatchLaw(0.001, 0.004, 8, 0.002, 0.1)
PROFILE = Profile(
    "k",
    MACHINE,
    (PlacementLaw(1, 2, LAW), PlacementLaw(1, 2, BatchLaw(0.002, 0.0), 128)),
    (Measurement(Cell(1, 2, 8), 0.012, 666.7),),
    (Cell(1, 2, 32),),
    0.005,
    1e9,
)
MANIFEST = Manifest(ModelId("m", "1"), Path("m.onnx"), "onnx", "onnx", fingerprint="f")


def test_what_is_written_is_read() -> None:
    assert from_bytes(to_bytes(PROFILE)) == PROFILE


@given(st.binary(max_size=200))
def test_anything_else_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        from_bytes(content)


@pytest.mark.parametrize("cut", [1, 10, 100, 200])
def test_half_a_profile_is_refused(cut: int) -> None:
    with pytest.raises(InvalidInput, match="not a profile"):
        from_bytes(to_bytes(PROFILE)[:-cut])


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": 2},
        {"format": 0},
        {"alone_s": -1.0},
        {"laws": [{"instances": 0, "threads": 1, "law": {"a": 1, "t0": 1}}]},
        {"laws": [{"instances": 1, "threads": 1, "law": {"a": -1, "t0": 1}}]},
        {"laws": [{"instances": 1, "threads": 1, "law": {"a": 1, "t0": 1}, "size": -1}]},
        {"laws": [{"instances": 1, "threads": 1, "law": {"a": 1, "t0": 1, "kink": -1}}]},
        {"measured": [{"cell": {"instances": 1, "threads": 1, "rows": 0}, "seconds": 1, "rate": 1}]},
        {"measured": [{"cell": {"instances": 1, "threads": 1, "rows": 1}, "seconds": 0, "rate": 1}]},
        {"measured": [{"cell": {"instances": 1, "threads": 1, "rows": 1}, "seconds": 1e999, "rate": 1}]},
        {"surprise": 1},
        {"refused": [{"instances": 1, "threads": 1, "rows": 1}] * 5000},
    ],
)
def test_a_profile_of_impossible_things_is_refused(wrong: dict[str, object]) -> None:
    document = msgspec.json.decode(to_bytes(PROFILE)) | wrong
    with pytest.raises(InvalidInput):
        from_bytes(msgspec.json.encode(document))


def test_a_profile_of_a_megabyte_is_refused_unread() -> None:
    with pytest.raises(InvalidInput, match="larger"):
        from_bytes(b" " * ((1 << 20) + 1))


def test_a_placements_law_is_found_and_replaced() -> None:
    assert PROFILE.law(1, 2) == LAW
    assert PROFILE.laws_by_size(1, 2) == {0: LAW, 128: BatchLaw(0.002, 0.0)}
    assert PROFILE.law(2, 1) is None
    changed = PROFILE.with_law(1, 2, BatchLaw(1.0, 1.0), 5.0)
    assert changed.law(1, 2) == BatchLaw(1.0, 1.0)
    assert changed.laws_by_size(1, 2)[128] == BatchLaw(0.002, 0.0)
    assert len(changed.laws) == 2
    assert changed.when == 5.0


def test_the_key_follows_content_backend_objective_and_options_but_no_name_or_time() -> None:
    def key(content: str = "d", **changes: object) -> str:
        return key_of(msgspec.structs.replace(MANIFEST, **changes), content)

    assert key() == key(id=ModelId("other", "9"), fingerprint="touched", path=Path("elsewhere"))
    different = [
        key(),
        key("e"),
        key(""),
        key(backend="torch"),
        key(config=ModelConfig(objective=Objective(throughput=True))),
        key(config=ModelConfig(objective=Objective(latency_p99_ms=50))),
        key(config=ModelConfig(options={"a": "b"})),
        key(config=ModelConfig(options={"a": "c"})),
    ]
    assert len(set(different)) == len(different)
