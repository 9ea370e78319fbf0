"""What a load request may bring, where it lies, and what it stands for in a scan."""

import stat
from pathlib import Path

import pytest

from salver.backends.protocol import ArtifactKind
from salver.kernel.repository import Repository, RepositoryConfig
from salver.kernel.repository.uploads import bring
from salver.parts import formats
from salver.words.artifacts import LoadOrder, Manifest
from salver.words.errors import InvalidInput, LoadFailed, TooLarge

CONFIG = '{"backend": "onnxruntime", "max_batch_size": 2}'


def recognise(path: Path) -> ArtifactKind | None:
    if path.suffix == ".onnx":
        return ArtifactKind("onnx", "onnx")
    return ArtifactKind("python", "python") if path.suffix == ".py" else None


def a_repository(root: Path, **options: bool) -> Repository:
    for name in ("a", "b"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_text(name)
    return Repository([root], formats(recognise), RepositoryConfig(**options))


def load(repository: Repository, name: str, order: LoadOrder) -> list[Manifest]:
    repository.overrides[name] = repository.bring(name, order)
    return [m for m in repository.scan(0.0, frozenset({name})) if m.id.name == name]


@pytest.mark.clause("TR-R12")
def test_files_lie_in_a_private_folder_until_they_are_discarded() -> None:
    """TR-R12."""
    brought = bring(
        "m", LoadOrder(CONFIG, {"1/model.onnx": b"\x00\xff", "1/sub/w.bin": b"", "labels.txt": b"a"})
    )
    assert brought.folder is not None
    assert (brought.folder / "1/model.onnx").read_bytes() == b"\x00\xff"
    assert stat.S_IMODE(brought.folder.stat().st_mode) == 0o700
    assert brought.bytes == 3
    brought.discard()
    assert not brought.folder.exists()
    brought.discard()


def test_a_configuration_alone_needs_no_folder() -> None:
    assert bring("m", LoadOrder(CONFIG)).folder is None


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "../x", "1/../../x", "1/..", "1//x", "1/./x", "1/", "1\\x", "1/x\0", "1/x\n",
        "1/" + "x" * 256, "1/\ud800", "/".join("123456789abcdefgh"),
    ],
)  # fmt: skip
def test_a_path_stays_below_the_folder(path: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be written below the model's folder"):
        bring("m", LoadOrder(CONFIG, {"1/model.onnx": b"x", path: b"x"}))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", ".hidden", "x" * 256])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a model's name"):
        bring(name, LoadOrder(CONFIG, {"1/model.onnx": b"x"}))


def test_what_is_brought_is_bounded() -> None:
    with pytest.raises(TooLarge, match="have 3 bytes, and there is room for 2"):
        bring("m", LoadOrder(CONFIG, {"1/a": b"xx", "1/b": b"x"}), room=2)
    with pytest.raises(TooLarge, match="1001 files"):
        bring("m", LoadOrder(CONFIG, {f"1/{n}": b"" for n in range(1001)}))


def test_a_configuration_is_no_longer_than_any_model_needs() -> None:
    with pytest.raises(TooLarge, match="model 'm' has 1048577 characters; at most 1048576"):
        bring("m", LoadOrder(" " * ((1 << 20) + 1)))


def test_a_file_cannot_be_a_folder_too() -> None:
    with pytest.raises(LoadFailed, match=r"the files for model 'm' cannot be written: '1/x'"):
        bring("m", LoadOrder(CONFIG, {"1": b"x", "1/x": b"x"}))


@pytest.mark.clause("TR-R12")
def test_files_stand_for_a_model_that_is_in_no_repository(tmp_path: Path) -> None:
    """TR-R12."""
    repository = a_repository(tmp_path)
    repository.scan(0.0)
    (one, two) = load(repository, "sent", LoadOrder(CONFIG, {"1/model.onnx": b"x", "2/model.onnx": b"y"}))
    assert (str(one.id), str(two.id), one.config.batching.max_rows) == ("sent:1", "sent:2", 2)
    assert one.path.read_bytes() == b"x"
    assert {m.id.name for m in repository.scan(1.0)} == {"a", "b", "sent"}
    repository.overrides.pop("sent").discard()
    assert {m.id.name for m in repository.scan(2.0)} == {"a", "b"}


@pytest.mark.clause("TR-R12")
def test_files_take_the_place_of_the_models_own_and_leave_them_alone(tmp_path: Path) -> None:
    """TR-R12: of the versions in the model's folder, none is left."""
    repository = a_repository(tmp_path)
    (own, _) = repository.scan(0.0)
    (sent,) = load(repository, "a", LoadOrder(CONFIG, {"7/model.onnx": b"x"}))
    assert str(sent.id) == "a:7"
    assert own.path.read_text() == "a"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["1"]
    del repository.overrides["a"]
    assert [str(m.id) for m in repository.scan(0.0)] == ["a:1", "b:1"]


def test_other_files_are_another_model(tmp_path: Path) -> None:
    repository = a_repository(tmp_path)
    orders = [LoadOrder(CONFIG, {"1/model.onnx": b"x"}), LoadOrder(CONFIG, {"1/model.onnx": b"y"})]
    prints = [load(repository, "a", order)[0].fingerprint for order in [*orders, LoadOrder(CONFIG)]]
    assert len(set(prints)) == 3


def test_all_models_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.kernel.repository.uploads.MOST_BYTES", 5)
    repository = a_repository(tmp_path)
    load(repository, "a", LoadOrder(CONFIG, {"1/model.onnx": b"xxx"}))
    with pytest.raises(TooLarge, match="there is room for 2"):
        repository.bring("b", LoadOrder(CONFIG, {"1/model.onnx": b"xxx"}))


@pytest.mark.clause("TR-R12")
def test_code_comes_by_request_only_where_it_is_trusted(tmp_path: Path) -> None:
    """TR-R12, narrowed: whoever may load a model may not therefore run programs."""
    order = LoadOrder("{}", {"1/model.py": b"class Model: ..."})
    (refused,) = load(a_repository(tmp_path / "1"), "m", order)
    assert "start with --trust-pickle" in refused.problem
    (taken,) = load(a_repository(tmp_path / "2", trusts_code=True), "m", order)
    assert (taken.problem, taken.backend) == ("", "python")


@pytest.mark.parametrize(
    ("config", "is_unreadable"),
    [
        ('{"nme": 1}', True),
        ('{"name": "other"}', True),
        ("[", True),
        ('{"max_batch_size": -1}', True),
        ('{"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}', True),
        ('{"sequence_batching": {"direct": {"minimum_slot_utilization": 2}}}', True),
        ('{"platform": "ensemble", "ensemble_scheduling": {"step": []}}', True),
        ('{"input": [{"name": "x", "data_type": "TYPE_INT8", "dims": [0]}]}', False),
        ('{"version_policy": {"latest": {}}}', False),
        ('{"platform": "tensorrt_plan"}', False),
        ('{"backend": "nonesuch"}', False),
        ('{"default_model_filename": "../../b/1/model.onnx"}', False),
        ('{"output": [{"name": "y", "data_type": "TYPE_INT8", "label_filename": "/etc/passwd"}]}', False),
    ],
)
def test_a_configuration_that_is_wrong_is_told_from_one_that_asks_for_too_much(
    tmp_path: Path, config: str, is_unreadable: bool
) -> None:
    """TR-R12: Triton refuses the first when it polls, the second when it loads."""
    (manifest,) = load(a_repository(tmp_path), "a", LoadOrder(config, {"1/model.onnx": b"x"}))
    assert manifest.problem
    assert manifest.is_unreadable is is_unreadable


@pytest.mark.clause("TR-C2", "TR-R12")
def test_the_versions_policy_of_an_order_counts(tmp_path: Path) -> None:
    """TR-C2, TR-R12."""
    config = '{"version_policy": {"specific": {"versions": [1, 3]}}}'
    for manifest in load(a_repository(tmp_path), "a", LoadOrder(config)):
        assert manifest.config.versions.specific == ("1", "3")


def test_a_class_for_weights_that_came_with_a_request_is_code(tmp_path: Path) -> None:
    def weights(path: Path) -> ArtifactKind | None:
        return ArtifactKind("torch", "torch-weights") if path.suffix == ".pt" else None

    config = '{"backend": "pytorch", "runtime": "model.py"}'
    order = LoadOrder(config, {"1/model.pt": b"", "1/model.py": b""})
    for trusts_code in (False, True):
        (tmp_path / str(trusts_code)).mkdir()
        rules = RepositoryConfig(trusts_code=trusts_code)
        (found,) = load(Repository([tmp_path / str(trusts_code)], formats(weights), rules), "m", order)
        assert ("--trust-pickle" in found.problem) is not trusts_code
        assert found.config.instances.runner == "process"
