"""What is said of files and folders that no backend recognises."""

import gzip
import json
import runpy
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from salver.backends.discovery import backends, recogniser
from salver.kernel.repository import Repository, RepositoryConfig
from salver.kernel.repository.advice import check_place, missing, unrecognised_file
from salver.parts import formats
from salver.words.errors import InvalidInput, NotFound

_JSON = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
BERT = {"architectures": ["BertModel"], "model_type": "bert"}


def problem(path: Path) -> str:
    """Of the one version that a scan finds there."""
    (manifest,) = Repository((path,), formats(recogniser(backends()))).scan(0.0)
    return manifest.problem


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.h5", b"\x89HDF\r\n\x1a\n", "load_model('{path}').export('saved_m')"),
        ("m.weights.h5", b"\x89HDF\r\n\x1a\n", "holds weights of Keras without the model"),
        ("m.safetensors", struct.pack("<Q", len(_JSON)) + _JSON, "weights without a program"),
        ("m.bin", struct.pack("<Q", len(_JSON)) + _JSON, "safetensors"),
        ("m.gguf", b"GGUF\3", "llama.cpp"),
        ("m.engine", b"ftrt", "a TensorRT engine"),
        ("m.cbm", b"CBM1", 'format="onnx"'),
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("m.onnx", b"<!DOCTYPE html><html>", "a web page"),
        ("m.onnx", b"", "an empty file"),
        ("saved_model.pb", b"??", "Give its folder: {path.parent}"),
        ("m.tar.gz", gzip.compress(b"x", mtime=0), "an archive. Unpack it"),
        ("m.npy", b"\x93NUMPY", "which is data"),
        ("m.txt", b"hello", "`salver doctor` lists them"),
        ("m.py", b"x = 1", "defines no class Model. Put a class Model"),
    ],
)
def test_files(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said.format(path=path) in problem(path)
    assert said.format(path=path) in unrecognised_file(path)
    if name != "m.txt":
        with pytest.raises(NotFound) as info:
            Repository(
                (tmp_path,), formats(recogniser(backends())), RepositoryConfig(refuses_nothing=True)
            ).scan(0.0)
        assert said.format(path=path) in str(info.value), "of the only file of a folder, too"


def test_a_model_in_keras_own_format(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "my net.keras", "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    assert "export('saved_my_net')" in problem(tmp_path / "my net.keras")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("config.json", "model.safetensors"), "is a Hugging Face model (BertModel)"),
        (("config.json", "model.safetensors", "1_Pooling/config.json"), "(BertModel)"),
        (("modules.json", "config_sentence_transformers.json"), "sentence-transformers"),
        (("model_index.json", "unet/x.bin"), "diffusers"),
        (("adapter_config.json",), "an adapter (PEFT)"),
        (("variables/variables.index",), "a SavedModel without its saved_model.pb"),
        (("checkpoint", "m.index"), "a checkpoint of TensorFlow"),
    ],
)
def test_folders(names: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With transformers, weights are served as they are.
    monkeypatch.setattr("salver.features.pipelines.directory.is_installed", lambda module: False)
    for root in (tmp_path / "net", tmp_path / "many" / "net" / "1"):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(json.dumps(BERT))
    assert said in problem(tmp_path / "net")
    assert said in problem(tmp_path / "many"), "as a version of a model"


def test_weights_of_torch_in_a_folder_of_hugging_face(tmp_path: Path) -> None:
    for root in (tmp_path / "net", tmp_path / "many" / "net" / "1"):
        root.mkdir(parents=True)
        (root / "config.json").write_text(json.dumps(BERT))
        torch.save({"w": torch.ones(2)}, root / "pytorch_model.bin")
    assert "is a Hugging Face model (BertModel)" in problem(tmp_path / "net")
    assert "is a Hugging Face model (BertModel)" in problem(tmp_path / "many")


@pytest.mark.parametrize("place", ["models/m-1/artifacts", "run/artifacts/model"])
def test_a_folder_of_runs_leads_to_a_model(place: str, tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "123" / place).mkdir(parents=True)
    (tmp_path / "mlruns" / "123" / "meta.yaml").write_text("a: 1")
    (tmp_path / "mlruns" / "123" / place / "MLmodel").write_text("flavors: {}")
    said = f"is a folder of MLflow's runs. Give that of a model: {tmp_path}/mlruns/123/{place}"
    assert said in problem(tmp_path / "mlruns")
    assert said in problem(tmp_path / "mlruns" / "123")


def test_a_repository_that_has_models_is_no_folder_of_hugging_face(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    (tmp_path / "m.py").write_text("class Model:\n    pass\n")
    assert problem(tmp_path) == ""


def test_the_advice_for_a_function_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("def other():\n    pass\n\n\ndef predict(a, b):\n    return a + b\n")
    said = problem(path)
    assert "the functions other, predict" in said
    path.write_text(path.read_text() + said[said.index("\n\nimport numpy") :])
    assert problem(path) == ""
    model = runpy.run_path(str(path))["Model"]
    assert list(model.inputs) == ["a", "b"]
    assert model().predict({"a": np.ones(2), "b": np.ones(2)})["y"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hf://org/name@main", "optimum-cli export onnx --model org/name exported"),
        ("hf:/org/name", "hf://org/name is a repository of Hugging Face"),
        ("https://x.org/a/m.onnx?v=1", "curl -fLO 'https://x.org/a/m.onnx?v=1'\nsalver serve m.onnx"),
        ("http://x.org", "a web address"),
        ("models:/fraud@champion", "salver registry push models:/fraud@champion --name NAME"),
        ("runs:/abc/model", "mlflow artifacts download --artifact-uri runs:/abc/model"),
        ("oci://ghcr.io/a/b:1", "an OCI artefact"),
        ("file:///tmp/m.onnx", "Give the path: /tmp/m.onnx"),
        ("app:predict", "Put a class Model into model.py"),
        ("pkg.app:predict", "from app import predict"),
        ("pkg/app.py:predict", "Put a class Model into pkg/model.py"),
    ],
)
def test_what_is_no_path(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as info:
        Repository((text,), formats(recogniser(backends())))
    assert said in str(info.value)


@pytest.mark.parametrize(
    "text", ["s3://bucket/models", "gs://b", "as://a/c", "models", "./x.onnx", "C:x", "a:1"]
)
def test_what_may_be_one(text: str) -> None:
    check_place("models" if text == "C:x" else text)


def test_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "resnet.onnx").touch()
    assert missing(str(tmp_path / "resnt.onnx")) == f"Did you mean {tmp_path}/resnet.onnx?"
    (tmp_path / "old.onnx").symlink_to("/gone/old.onnx")
    linked = f"{tmp_path}/old.onnx is a link to /gone/old.onnx, which does not exist"
    assert missing(str(tmp_path / "old.onnx")) == linked
    assert missing(str(tmp_path / "old.onnx" / "1")) == linked
    (tmp_path / "old.onnx").unlink()
    assert missing(str(tmp_path / "zzz" / "q.onnx")).startswith(f"{tmp_path} holds: resnet.onnx. Give")


def test_the_first_scan_alone_refuses_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("class Model:\n    pass\n")
    repository = Repository(
        (tmp_path,), formats(recogniser(backends())), RepositoryConfig(settle_s=0, refuses_nothing=True)
    )
    assert len(repository.scan(0.0)) == 1
    (tmp_path / "m.py").unlink()
    repository.scan(1.0)
    assert repository.scan(2.0) == ()


def test_a_configuration_beside_a_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("class Model:\n    pass\n")
    (tmp_path / "other.py").write_text("class Model:\n    pass\n")

    def found(text: str) -> tuple[str, float]:
        (tmp_path / "salver.toml").write_text(text)
        (manifest,) = Repository((tmp_path / "m.py",), formats(recogniser(backends()))).scan(0.0)
        return manifest.problem, manifest.config.timeout_ms

    assert found("timeout_ms = 7") == ("", 7)
    assert found('timeout_ms = 7\nfilename = "m.py"') == ("", 7)
    assert found('timeout_ms = 7\nfilename = "other.py"') == ("", 0), "it is the other one's"
    assert "unknown key" in found("timeout = 7")[0]
    assert "is python, which the onnx backend cannot run" in found('backend = "onnx"')[0]


def test_a_change_of_the_configuration_beside_a_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("class Model:\n    pass\n")
    repository = Repository(
        (tmp_path / "m.py",), formats(recogniser(backends())), RepositoryConfig(settle_s=0)
    )
    (before,) = repository.scan(0.0)
    (tmp_path / "salver.toml").write_text("timeout_ms = 7")
    repository.scan(1.0)
    (after,) = repository.scan(2.0)
    assert before.fingerprint != after.fingerprint
    assert after.config.timeout_ms == 7
