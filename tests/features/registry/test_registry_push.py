"""``salver registry push`` of what lies elsewhere: it comes whole, and described."""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zoo
from docker_registry import a_registry
from sites import Page, Site, a_site
from sklearn.linear_model import LinearRegression

from salver.cli import main
from salver.features.registry.push_command import _DownloadProgress

Push = Callable[..., Any]


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as here:
        yield here


@pytest.fixture
def push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Push:
    """Pushes into a registry of its own; the version, or, where it fails, what was said."""
    monkeypatch.setenv("SALVER_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("LOGNAME", "ann")
    for name in ("SALVER_TOKEN", "MLFLOW_TRACKING_URI", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(source: str, *words: str, ends: int = 0) -> Any:
        capsys.readouterr()
        code = main(["registry", "push", source, "--name", "m", "--json", *words])
        printed = capsys.readouterr()
        assert code == ends, printed
        assert not list(tmp_path.glob("salver-push-*"))
        return json.loads(printed.out) if ends == 0 else printed.out + printed.err

    return run


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    zoo.write_constant(tmp_path / "made", 7)
    return (tmp_path / "made" / "constant" / "7" / "model.onnx").read_bytes()


def paths(version: Any) -> list[str]:
    return [file["path"] for file in version["files"]]


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as all:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            all.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_an_archive_from_a_url_is_loaded_and_described(push: Push, site: Site, model: bytes) -> None:
    card = b"---\nlicense: mit\n---\n# Constant\n"
    content = tar({"m/model.onnx": model, "m/README.md": card})
    site.pages["/m.tgz"] = Page(content)
    url = f"{site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()}"
    version = push(url, "--alias", "champion", "--tag", "team=risk", "--metric", "auc=1", "--parent", "run:7")
    assert paths(version) == ["README.md", "model.onnx"]
    assert version["source"] == url
    assert version["front_matter"] == {"license": "mit"}
    assert version["description"]["signature"]["inputs"][0]["name"] == "x"
    assert (version["tags"], version["metrics"]) == ({"team": "risk"}, {"auc": 1.0})
    assert version["parents"] == [{"kind": "run", "reference": "7"}]
    assert "champion" in version["aliases"]


def test_folders_beside_the_artefact_are_no_models(push: Push, site: Site, model: bytes) -> None:
    content = tar({"model.onnx": model, "more/labels.txt": b"a", "other/deep/x": b""})
    site.pages["/m.tgz"] = Page(content)
    version = push(f"{site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()}", "--unloaded")
    assert paths(version) == ["model.onnx", "more/labels.txt", "other/deep/x"]


@pytest.mark.parametrize("beside", ["config.pbtxt", "salver.toml", "1/model.onnx"])
def test_a_folder_that_says_how_it_is_laid_is_left_so(
    push: Push, site: Site, model: bytes, beside: str
) -> None:
    files = {"1/model.onnx": model, **({} if "/" in beside else {beside: b""})}
    content = tar(files)
    site.pages["/m.tgz"] = Page(content)
    version = push(f"{site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()}", "--unloaded")
    assert set(paths(version)) == {"model.onnx"} | ({beside} - {"1/model.onnx"})


def test_what_is_wrong_is_told_by_the_address(push: Push, site: Site) -> None:
    content = tar({"notes.txt": b"nothing"})
    site.pages["/m.tgz"] = Page(content)
    said = push(f"{site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()}", ends=1)
    assert f"in {site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()} (" in said
    assert "notes.txt" in said


def test_without_a_digest_only_who_says_so(push: Push, site: Site, model: bytes) -> None:
    site.pages["/model.onnx"] = Page(model)
    assert "--unverified" in push(f"{site.url}/model.onnx", ends=1)
    version = push(f"{site.url}/model.onnx", "--unverified", "--unloaded")
    assert version["source"].endswith(f"#sha256={hashlib.sha256(model).hexdigest()}")


def test_a_part_of_what_came(push: Push, site: Site, model: bytes, tmp_path: Path) -> None:
    content = tar({"onnx/model.onnx": model, "onnx/labels.txt": b"a", "README.md": b"# All", "x.bin": b""})
    site.pages["/m.tgz"] = Page(content)
    url = f"{site.url}/m.tgz#sha256={hashlib.sha256(content).hexdigest()}"
    file = push(url, "--take", "onnx/model.onnx", "--unloaded")
    folder = push(url, "--take", "onnx", "--unloaded")
    assert (paths(file), paths(folder)) == (["model.onnx"], ["labels.txt", "model.onnx"])
    assert file["card"] == folder["card"] == "# All"
    for odd in ("none", "../made", "/etc", "onnx/../../x"):
        assert "there is no such file or folder" in push(url, "--take", odd, ends=1)
    (tmp_path / "card.md").write_text("# Mine")
    assert push(url, "--take", "onnx", "--unloaded", "--card", str(tmp_path / "card.md"))["card"] == "# Mine"


def mlflow(folder: Path, model: bytes, **flavours: Any) -> str:
    folder.mkdir()
    for about in flavours.values():
        (folder / next(iter(about.values()))).write_bytes(model)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavours, "run_id": "r7"}))
    return str(folder)


def test_what_mlflow_says_comes_along_and_what_is_said_here_goes_first(
    push: Push, model: bytes, tmp_path: Path
) -> None:
    folder = mlflow(tmp_path / "m", model, onnx={"data": "model.onnx", "onnx_version": "1.22"})
    version = push(folder, "--tag", "mlflow.flavor=mine")
    assert paths(version) == ["MLmodel", "model.onnx"]
    assert version["tags"] == {"mlflow.flavor": "mine", "mlflow.onnx_version": "1.22"}
    assert version["parents"] == [{"kind": "run", "reference": "mlflow:r7"}]
    assert version["description"]["framework"] == "onnx"


def test_a_pickle_is_refused_unless_it_is_trusted(push: Push, tmp_path: Path) -> None:
    content = pickle.dumps(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))
    folder = mlflow(tmp_path / "m", content, sklearn={"pickled_model": "model.pkl"})
    assert "pickle" in push(folder, ends=1)
    assert not (tmp_path / "registry" / "models").exists()
    assert push(folder, "--trust-pickle")["description"]["framework"] == "sklearn"


def test_a_snapshot_of_hugging_face(
    push: Push, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c" * 40
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "1").write_bytes(model)
    (snapshot / "model.onnx").symlink_to("../../blobs/1")
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    version = push("hf://org/name@main")
    assert (version["source"], version["front_matter"]) == (
        f"hf://org/name@{commit}",
        {"license": "apache-2.0"},
    )
    assert (tmp_path / "registry" / "models" / "m" / "1" / "model.onnx").read_bytes() == model


def test_a_model_car_of_a_real_registry(push: Push, model: bytes, tmp_path: Path) -> None:
    with a_registry(tmp_path / "oci") as registry:
        config = registry.blob("m", b"{}", "application/vnd.oci.image.config.v1+json")
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        layer = registry.blob("m", tar({"models/model.onnx": model}), kind)
        pushed = registry.manifest("m", "v1", {"config": config, "layers": [layer]})
        version = push(f"oci://{registry.host}/m:v1")
    assert version["source"] == f"oci://{registry.host}/m@{pushed['digest']}"
    assert version["tags"] == {"oci.tag": "v1"}
    assert version["description"]["signature"]["batched"] is not None


@pytest.mark.parametrize(
    "source", ["ftp://host/m", "models:/x", "oci://M", "hf://x y", "https://h/m#sha256=0", "s3://"]
)
def test_sources_that_cannot_be(push: Push, source: str) -> None:
    assert push(source, ends=1)


def test_nothing_is_there(push: Push, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in push(str(tmp_path / "none"), ends=1)


def test_files_that_are_loaded_where_they_lie_are_not_compressed(push: Push, tmp_path: Path) -> None:
    assert "loaded where they lie" in push(str(tmp_path), "--compress", ends=1)


def test_a_terminal_sees_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown, unseen = (_DownloadProgress(is_seen=is_seen) for is_seen in (True, False))
    for each in (shown, unseen):
        for done in (1 << 20, (1 << 20) + 1, 2 << 20):
            each("m.onnx", done, 4 << 20)
        each("others", 3 << 20, 0)
        each.end()
        each.end()
    lines = [text.removeprefix("\x1b[K") for text in capsys.readouterr().err.split("\r")]
    assert lines == ["", "m.onnx: 25 % of 4 MiB", "m.onnx: 50 % of 4 MiB", "others: 3 MiB", ""]
