"""Custom and whole configurations, defaults for batches, names that repositories share (TR-F2, TR-L7)."""

from pathlib import Path

import pytest
from model_folders import recognise, write_files

from salver.kernel.repository import Repository, RepositoryConfig
from salver.parts import formats
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput

WHOLE = 'backend: "onnxruntime" ' + " ".join(
    f'{side} {{ name: "{side}" data_type: TYPE_FP32 dims: 4 }}' for side in ("input", "output")
)


def scan(config: RepositoryConfig, *paths: Path) -> dict[str, Manifest]:
    return {str(m.id): m for m in Repository(paths, formats(recognise), config).scan(0.0)}


@pytest.mark.clause("TR-F2")
def test_a_custom_configuration_stands_in_where_there_is_one(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "a/1/m.onnx": "ONNX",
            "a/config.pbtxt": "max_batch_size: 2",
            "a/configs/big.pbtxt": "max_batch_size: 32",
            "b/1/m.onnx": "ONNX",
            "b/config.pbtxt": "max_batch_size: 3",
        },
    )
    usual = scan(RepositoryConfig(), tmp_path)
    big = scan(RepositoryConfig(config_name="big"), tmp_path)
    rows = [[found[id].config.batching.max_rows for id in ("a:1", "b:1")] for found in (usual, big)]
    assert rows == [[2, 3], [32, 3]]
    assert usual["a:1"].fingerprint != big["a:1"].fingerprint
    assert not any(manifest.notices or manifest.problem for manifest in big.values())


@pytest.mark.clause("TR-L1")
@pytest.mark.parametrize("name", ["../a", "a/b", "a\n"])
def test_a_custom_configuration_lies_among_the_others(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a configuration"):
        RepositoryConfig(config_name=name)


@pytest.mark.clause("TR-C16")
@pytest.mark.parametrize(
    ("config", "rows"), [(None, 4), ("", 4), ("max_batch_size: 0", 64), ("max_batch_size: 7", 7)]
)
def test_batches_of_models_that_leave_their_size_out(tmp_path: Path, config: str | None, rows: int) -> None:
    write_files(
        tmp_path, {"a/1/m.onnx": "ONNX", "t/1/m.pt": "TORCH", "s/1/m.onnx": "ONNX", "s/salver.toml": ""}
    )
    if config is not None:
        write_files(tmp_path, {"a/config.pbtxt": config})
    found = scan(RepositoryConfig(default_rows={"onnx": 4}), tmp_path)
    assert found["a:1"].config.batching.max_rows == rows
    assert found["t:1"].config.batching.max_rows == found["s:1"].config.batching.max_rows == 64


def test_a_default_for_batches_has_bounds() -> None:
    with pytest.raises(InvalidInput, match="a batch of -1 rows for onnx"):
        RepositoryConfig(default_rows={"onnx": -1})


@pytest.mark.clause("TR-F2")
@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (None, "failed to open text file for read"),
        ("", "must specify 'platform' or 'backend' for 'a'"),
        ('backend: "onnxruntime"', "configuration expects 0 inputs"),
        (WHOLE.partition("output {")[0], "configuration expects 0 outputs"),
        (WHOLE, ""),
    ],
)
def test_a_configuration_that_must_be_whole(tmp_path: Path, config: str | None, problem: str) -> None:
    write_files(tmp_path, {"a/1/m.onnx": "ONNX", "s/1/m.onnx": "ONNX", "s/salver.toml": "", "c.onnx": "ONNX"})
    if config is not None:
        write_files(tmp_path, {"a/config.pbtxt": config})
    found = scan(RepositoryConfig(required_config="config.pbtxt", default_rows={"onnx": 4}), tmp_path)
    if problem:
        assert problem in found["a:1"].problem and found["a:1"].is_unreadable
    else:
        assert not found["a:1"].problem
        assert not found["a:1"].config.batching.has_rows, "as Triton reads a max_batch_size that is left out"
    assert not found["s:1"].problem, "it is not Triton's"
    assert "config.pbtxt" in found["c:1"].problem


@pytest.mark.clause("TR-L7")
def test_models_of_several_repositories_may_have_one_name(tmp_path: Path) -> None:
    one = write_files(tmp_path / "one", {"m/1/m.onnx": "ONNX", "n/1/m.onnx": "ONNX"})
    two = write_files(tmp_path / "two", {"m/1/m.onnx": "ONNX", "m/2/m.onnx": "ONNX"})
    assert all(
        "more than once" in m.problem for id, m in scan(RepositoryConfig(), one, two).items() if id != "n:1"
    )
    found = scan(RepositoryConfig(has_namespaces=True), one, two)
    assert sorted(found) == ["n:1", "one::m:1", "two::m:1", "two::m:2"]
    assert not any(manifest.problem for manifest in found.values())
    assert found["two::m:2"].home == two / "m"


@pytest.mark.clause("TR-L7")
def test_an_ensemble_is_made_of_the_models_of_its_own_repository(tmp_path: Path) -> None:
    io = "".join(
        f'{side} {{ name: "{name}" data_type: TYPE_FP32 dims: 4 }} '
        for side, name in (("input", "a"), ("output", "b"))
    )
    steps = "".join(
        f'step {{ model_name: "{name}" input_map {{ key: "x" value: "{one}" }} '
        + f'output_map {{ key: "y" value: "{two}" }} }}'
        for name, one, two in (("m", "a", "between"), ("n", "between", "b"))
    )
    ensemble = f'platform: "ensemble" {io} ensemble_scheduling {{ {steps} }}'
    one = write_files(tmp_path / "one", {"m/1/m.onnx": "ONNX", "n/1/m.onnx": "ONNX"})
    two = write_files(tmp_path / "two", {"m/1/m.onnx": "ONNX", "e/config.pbtxt": ensemble})
    (two / "e" / "1").mkdir()
    found = scan(RepositoryConfig(has_namespaces=True), one, two)
    assert [step.model for step in found["e:1"].config.ensemble.steps] == ["two::m", "n"]
    alone = scan(RepositoryConfig(has_namespaces=True), two)
    assert [step.model for step in alone["e:1"].config.ensemble.steps] == ["m", "n"]
    assert alone["e:1"].fingerprint != found["e:1"].fingerprint
