"""Folders of models that SageMaker unpacks."""

import json
from pathlib import Path

import pytest

from salver.backends.protocol import ArtifactKind
from salver.dialects.triton.model_folders import open_folder
from salver.kernel.repository import Repository, RepositoryConfig
from salver.parts import formats
from salver.words.artifacts import LoadOrder, Manifest
from salver.words.errors import InvalidInput

ENSEMBLE = (
    'name: "both" platform: "ensemble" ensemble_scheduling { step { model_name: "a" model_version: -1 } }'
)


def recognise(path: Path) -> ArtifactKind | None:
    kinds = {".onnx": "onnx", ".py": "python"}
    return ArtifactKind(kinds[path.suffix], kinds[path.suffix]) if path.suffix in kinds else None


def put(folder: Path, config: str = "", file: str = "model.onnx") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / file).write_text(str(folder))
    if config:
        (folder / "config.pbtxt").write_text(config)
    return folder


def found(name: str, folder: Path, **options: bool) -> dict[str, Manifest]:
    config = RepositoryConfig(**options)
    repository = Repository([], formats(recognise, lambda backend, form: backend != "onnx"), config)
    repository.overrides[name] = repository.bring(name, LoadOrder(folder=str(folder)))
    return {str(m.id): m for m in repository.scan(0.0, frozenset({name}))}


@pytest.mark.clause("TR-V2")
def test_a_model_right_in_the_folder(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", 'name: "mine" backend: "onnxruntime"')
    manifests = found("hash", folder)
    assert list(manifests) == ["hash:1"]
    assert not manifests["hash:1"].problem
    assert manifests["hash:1"].path == folder / "1" / "model.onnx"


def test_the_backend_decides_between_a_file_and_the_program_beside_it(tmp_path: Path) -> None:
    """As Triton: ``model.onnx`` for onnxruntime, whatever ``model.py`` beside it is for."""
    folder = put(tmp_path / "m", 'backend: "onnxruntime"')
    (folder / "1" / "model.py").write_text("class TritonPythonModel: pass")

    def program(path: Path) -> ArtifactKind | None:
        is_program = (path / "model.py").is_file()
        return ArtifactKind("python", "triton_python") if is_program else recognise(path)

    def scanned(config: str) -> Manifest:
        (folder / "config.pbtxt").write_text(config)
        (manifest,) = Repository([tmp_path], formats(program)).scan(0.0)
        return manifest

    assert scanned('backend: "onnxruntime"').path == folder / "1" / "model.onnx"
    assert scanned('backend: "python"').format == "triton_python"
    assert "no artefact for the configured backend torch" in scanned('backend: "pytorch"').problem


@pytest.mark.clause("TR-V2")
def test_a_model_without_a_configuration(tmp_path: Path) -> None:
    assert list(found("hash", put(tmp_path / "model"))) == ["hash:1"]


@pytest.mark.clause("TR-V2")
def test_a_model_in_a_folder_below(tmp_path: Path) -> None:
    put(tmp_path / "model" / "mine", 'name: "mine" backend: "onnxruntime"')
    brought = open_folder("hash", str(tmp_path / "model"))
    assert brought.folder == tmp_path / "model" / "mine"
    assert json.loads(brought.config) == {"name": "hash", "backend": "onnxruntime"}
    assert not brought.members
    assert list(found("hash", tmp_path / "model")) == ["hash:1"]


@pytest.mark.clause("TR-V2")
def test_an_ensemble_brings_its_members(tmp_path: Path) -> None:
    put(tmp_path / "a", 'backend: "onnxruntime"')
    put(tmp_path / "both", ENSEMBLE)
    brought = open_folder("hash", str(tmp_path))
    assert brought.folder == tmp_path / "both"
    assert brought.members == {"a": tmp_path / "a"}
    assert set(found("hash", tmp_path)) >= {"a:1", "hash:1"}


@pytest.mark.clause("TR-V2")
def test_a_members_name_must_be_free(tmp_path: Path) -> None:
    put(tmp_path / "a", 'backend: "onnxruntime"')
    put(tmp_path / "both", ENSEMBLE)
    repository = Repository([], formats(recognise))
    for name in ("one", "two"):
        repository.overrides[name] = repository.bring(name, LoadOrder(folder=str(tmp_path)))
    problems = {str(m.id): m.problem for m in repository.scan(0.0, frozenset({"one", "two"}))}
    assert "'a' has the name of another model" in problems["two:1"]
    assert "another model" not in problems["one:1"]


@pytest.mark.clause("TR-V2")
def test_two_models_need_an_ensemble(tmp_path: Path) -> None:
    put(tmp_path / "a")
    put(tmp_path / "b")
    with pytest.raises(InvalidInput, match="several models, and none of them is an ensemble"):
        open_folder("hash", str(tmp_path))


@pytest.mark.clause("TR-V2")
@pytest.mark.parametrize(
    "url", ["/dev/shm", "/proc/self", "/sys", "relative", "/no/such/folder", "s3://a/b", "/\0"]
)
def test_places_that_hold_no_models(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        open_folder("hash", url)
    assert raised.value.field == "url"


@pytest.mark.clause("TR-V2")
def test_a_link_leads_to_no_such_place_either(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to("/proc/self")
    with pytest.raises(InvalidInput, match="is not a folder of models"):
        open_folder("hash", str(tmp_path / "model"))


@pytest.mark.clause("TR-V2")
def test_programs_need_trust_outside_of_the_platforms_folder(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", file="model.py")
    assert "--trust-pickle" in found("hash", folder)["hash:1"].problem
    assert not found("hash", folder, trusts_code=True)["hash:1"].problem
