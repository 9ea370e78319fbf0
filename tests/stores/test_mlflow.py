"""Models from MLflow: its folders, a real server of it, and one that answers as it should not."""

import json
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow_server import PLACE, an_mlflow, log_models
from sites import Asked, Page, Site
from zoo import write_constant

from salver.stores import StoreFailed
from salver.stores.sources import FetchedModel, silent
from salver.stores.sources.mlflow_registry import authorization, parse_uri
from salver.stores.sources.opening import Options, is_source, open_source
from salver.words.errors import InvalidInput, LoadFailed, SalverError

ONNX = {
    "onnx": {"data": "model.onnx", "onnx_version": "1.22"},
    "python_function": {"loader_module": "mlflow.onnx"},
}
SIGNATURE = {"inputs": '[{"type": "tensor"}]', "outputs": None}
SAID = {
    "flavors": ONNX,
    "run_id": "r1",
    "model_id": "m-1",
    "mlflow_version": "3.17.2",
    "signature": SIGNATURE,
}


def folder_with(folder: Path, said: Any, *names: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(said if isinstance(said, str) else yaml.safe_dump(said))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"content of {name}".encode())
    return folder


def fetch(source: str, folder: Path, environment: Mapping[str, str] | None = None) -> FetchedModel:
    inside = folder / "in"
    inside.mkdir(parents=True)
    return open_source(source, Options(environment=environment or {})).fetch(inside, silent)


def names(found: FetchedModel) -> list[str]:
    return sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file())


def test_a_folder(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "m", SAID, "model.onnx", "requirements.txt", "README.md", "other.bin")
    assert is_source(str(model))
    found = fetch(str(model), tmp_path)
    assert names(found) == ["MLmodel", "README.md", "model.onnx", "requirements.txt"]
    assert found.source == f"{model}#m-1"
    assert found.card == "content of README.md"
    assert found.parents == (("run", "mlflow:r1"),)
    assert found.tags == {
        "mlflow.flavor": "onnx",
        "mlflow.version": "3.17.2",
        "mlflow.model_id": "m-1",
        "mlflow.onnx_version": "1.22",
        "mlflow.signature.inputs": '[{"type": "tensor"}]',
    }


@pytest.mark.parametrize(
    ("flavours", "there", "taken"),
    [
        ({"sklearn": {"pickled_model": "model.skops"}}, ["model.skops"], ["model.skops"]),
        ({"sklearn": {"pickled_model": "model.pkl"}, **ONNX}, ["model.pkl", "model.onnx"], ["model.onnx"]),
        ({"xgboost": {"data": "model.ubj"}}, ["model.ubj"], ["model.ubj"]),
        ({"lightgbm": {"data": "model.lgb"}}, ["model.lgb"], ["model.lgb"]),
        (
            {"tensorflow": {"data": "data", "model_type": "keras"}},
            ["data/model.keras", "data/save_format.txt"],
            ["model.keras"],
        ),
        (
            {"tensorflow": {"saved_model_dir": "tfmodel"}},
            ["tfmodel/saved_model.pb", "tfmodel/variables/variables.index"],
            ["saved_model.pb", "variables/variables.index"],
        ),
        (
            {"tensorflow": {"data": "data"}},
            ["data/model/saved_model.pb", "data/keras_module.txt"],
            ["saved_model.pb"],
        ),
        (
            {"pytorch": {"model_data": "data"}},
            ["data/model.pth", "data/pickle_module_info.txt"],
            ["model.pth"],
        ),
    ],
    ids=["sklearn", "onnx-first", "xgboost", "lightgbm", "keras", "saved-model", "saved-model-2", "pytorch"],
)
def test_the_artefact_of_a_flavour(
    tmp_path: Path, flavours: Mapping[str, Any], there: list[str], taken: list[str]
) -> None:
    model = folder_with(tmp_path / "m", {"flavors": flavours}, *there)
    assert names(fetch(str(model), tmp_path)) == sorted(["MLmodel", *taken])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "says nothing of a model"),
        ("[1]", "says nothing of a model"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("a: " + "[" * 5000, "is not valid YAML"),
        ("x" * ((1 << 20) + 1), "is larger than 1024 KiB"),
        ({}, "no flavour .*: none"),
        ({"flavors": [1]}, "no flavour"),
        (
            {"flavors": {"python_function": {}, "spark": {"model_data": "x"}}},
            "it has: python_function, spark",
        ),
        ({"flavors": {"onnx": "model.onnx"}}, "no flavour"),
        ({"flavors": {"onnx": {"data": "gone.onnx"}}}, "no flavour"),
        ({"flavors": {"onnx": {"data": "../secret"}}}, "no flavour"),
        ({"flavors": {"onnx": {"data": "/etc/passwd"}}}, "no flavour"),
        ({"flavors": {"onnx": {"data": "."}}}, "no flavour"),
        ({"flavors": {"tensorflow": {"data": "data"}}}, "several models: model, model.keras"),
        ({"flavors": {"onnx": {"data": "link.onnx"}}}, "leads out of"),
    ],
    ids=[
        "empty",
        "list",
        "broken",
        "object",
        "deep",
        "large",
        "none",
        "odd",
        "others",
        "text",
        "gone",
        "up",
        "root",
        "itself",
        "several",
        "link",
    ],
)
def test_folders_that_cannot_be(tmp_path: Path, said: Any, words: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    model = folder_with(tmp_path / "m", said, "data/model/x", "data/model.keras", "model.onnx")
    (model / "link.onnx").symlink_to("../secret")
    with pytest.raises(SalverError, match=words):
        fetch(str(model), tmp_path)
    assert not [p for p in (tmp_path / "in").rglob("*") if p.is_file() and p.read_bytes() == b"secret"]


# -- a real server ---------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not (PLACE / "mlflow").exists(), reason="make it first: make .envs/mlflow-3/requirements.txt"
)
def test_versions_of_a_real_registry(tmp_path: Path) -> None:
    """One test, since the server takes long to start."""
    write_constant(tmp_path, 7)
    with an_mlflow(tmp_path / "server") as url:
        log_models(url, tmp_path / "constant" / "7" / "model.onnx")
        by_alias, by_number, newest = (
            fetch(f"models:/lin{which}", tmp_path / str(number), {"MLFLOW_TRACKING_URI": f"{url}/"})
            for number, which in enumerate(("@champion", "/1", "/latest"))
        )
        for number, name in enumerate(("lin@other", "lin/9", "other/latest")):
            with pytest.raises(StoreFailed, match=r"not found|has no version|404"):
                fetch(f"models:/{name}", tmp_path / f"not{number}", {"MLFLOW_TRACKING_URI": url})
    assert {"MLmodel", "model.onnx", "requirements.txt"} <= set(names(by_alias))
    assert (by_alias.source, by_alias.card) == ("models:/lin/1", "# The first one")
    assert by_alias.metrics == {"rmse": 0.25}
    assert {
        "team": "risk",
        "mlflow.flavor": "onnx",
        "mlflow.tracking_uri": url,
    }.items() <= by_alias.tags.items()
    ((kind, run),) = by_alias.parents
    assert (kind, run.partition(":")[0]) == ("run", "mlflow")
    said = (by_number.source, by_number.card, by_number.tags, by_number.metrics, by_number.parents)
    assert said == (by_alias.source, by_alias.card, by_alias.tags, by_alias.metrics, by_alias.parents)
    assert (newest.source, newest.metrics) == ("models:/lin/2", {})
    assert "model.pkl" in names(newest)


# -- servers that answer as they should not --------------------------------------------------------

FILES = {"MLmodel": yaml.safe_dump(SAID).encode(), "model.onnx": b"weights"}
VERSION = {"name": "lin", "version": "1", "run_id": "r1", "tags": [{"key": "team", "value": "risk"}]}
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def answer(said: Any) -> Page:
    return Page(json.dumps(said).encode())


def offer(site: Site, **other: Any) -> dict[str, str]:
    """A server with one version; the environment that names it."""
    listing = [{"path": name, "is_dir": False, "file_size": len(content)} for name, content in FILES.items()]
    run = {"data": {"metrics": [{"key": "auc", "value": 0.9}]}}
    said = {"version": VERSION, "place": "mlflow-artifacts:/0/a", "listing": listing, "run": run, **other}
    site.pages[f"{API}/registered-models/alias"] = answer({"model_version": said["version"]})
    site.pages[f"{API}/model-versions/get-download-uri"] = answer({"artifact_uri": said["place"]})
    site.pages[f"{API}/runs/get"] = answer({"run": said["run"]})
    site.pages[ARTIFACTS] = answer({"files": said["listing"]})
    for name, content in FILES.items():
        site.pages[f"{ARTIFACTS}/0/a/{name}"] = Page(content)
    return {"MLFLOW_TRACKING_URI": site.url}


def test_who_we_are_is_told(site: Site, tmp_path: Path) -> None:
    environment = offer(site)
    assert (
        fetch("models:/lin@a", tmp_path, {**environment, "MLFLOW_TRACKING_TOKEN": "abc"}).source
        == "models:/lin/1"
    )
    assert {headers.get("authorization") for _, headers in site.asked} == {"Bearer abc"}
    assert authorization({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}) == {
        "Authorization": "Basic dTpw"
    }


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"version": None}, "says nothing of a model_version"),
        ({"version": {"version": "../1"}}, "names no version"),
        ({"version": {"version": None}}, "names no version"),
        ({"place": "file:///etc"}, "is not read"),
        ({"place": "/etc"}, "is not read"),
        ({"place": ""}, "is not read"),
        ({"place": "dbfs:/x"}, "is not read"),
        ({"place": "s3://http://169.254.169.254:80/latest/x"}, "is not read"),
        ({"place": "as://theirs/container/x"}, "is not read"),
        ({"listing": []}, "has no files"),
        ({"listing": "x"}, "has no files"),
        ({"listing": [{"path": "..", "is_dir": False}]}, "invalid path"),
        ({"listing": [{"path": "a\nb"}]}, "invalid path"),
        ({"listing": [{"path": "a\\b"}]}, "leads out"),
        ({"listing": [{"path": "é" * 128, "file_size": 3}]}, "invalid path"),
        ({"listing": [7]}, "invalid path"),
        ({"listing": [{"path": "d", "is_dir": True}]}, "deeper than 16"),
        ({"listing": [{"path": "MLmodel", "file_size": "x"}]}, "has no size"),
        ({"listing": [{"path": "MLmodel", "file_size": 1 << 50}]}, "there is room for"),
        ({"listing": [{"path": "MLmodel", "file_size": 3}]}, "more than 3 bytes|bytes, and"),
        ({"listing": [{"path": "MLmodel", "file_size": 3000}]}, "bytes, and should have"),
        ({"listing": [{"path": "gone", "file_size": 3}]}, "404"),
        ({"listing": [{"path": "a", "file_size": 3}, {"path": "a", "is_dir": True}]}, "names a twice"),
    ],
    ids=[
        "no-version",
        "odd-version",
        "null-version",
        "file",
        "path",
        "nowhere",
        "dbfs",
        "endpoint",
        "account",
        "empty",
        "no-list",
        "up",
        "newline",
        "backslash",
        "long",
        "number",
        "round",
        "no-size",
        "huge",
        "larger",
        "smaller",
        "gone",
        "file-and-folder",
    ],
)
def test_servers_that_answer_as_they_should_not(
    site: Site, tmp_path: Path, other: Mapping[str, Any], words: str
) -> None:
    environment = offer(site, **other)
    with pytest.raises(SalverError, match=words):
        fetch("models:/lin@champion", tmp_path, environment)


def test_too_many_folders(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of which has a file, so that only the folders can be counted; each is a request."""
    monkeypatch.setattr("salver.stores.sources.mlflow_registry._MOST_FILES", 200)
    environment = offer(site)

    def folders(path: str, asked: Asked) -> Page:
        deep = path.count("%2F") > 10
        return answer({"files": [] if deep else [{"path": f"d{n}", "is_dir": True} for n in range(20)]})

    site.pages[ARTIFACTS] = folders
    with pytest.raises(StoreFailed, match="more than 200 files and folders"):
        fetch("models:/lin@champion", tmp_path, environment)


def test_a_password_in_the_servers_url_is_sent_and_not_kept(site: Site, tmp_path: Path) -> None:
    offer(site)
    found = fetch("models:/lin@a", tmp_path, {"MLFLOW_TRACKING_URI": f"http://ann:pw@{site.host}"})
    assert {headers.get("authorization") for _, headers in site.asked} == {"Basic YW5uOnB3"}
    assert found.tags["mlflow.tracking_uri"] == site.url


def test_too_many_files(site: Site, tmp_path: Path) -> None:
    environment = offer(site, listing=[{"path": f"f{number}", "file_size": 0} for number in range(10_001)])
    with pytest.raises(StoreFailed, match="more than 10000 files"):
        fetch("models:/lin@champion", tmp_path, environment)


@pytest.mark.parametrize(
    "run",
    [None, {}, {"data": 7}, {"data": {"metrics": 7}}, {"data": {"metrics": [7, {"key": 1, "value": 1}]}}],
    ids=["none", "empty", "odd", "odd-list", "odd-entries"],
)
def test_what_is_said_of_a_run_may_be_missing(site: Site, tmp_path: Path, run: Any) -> None:
    assert fetch("models:/lin@champion", tmp_path, offer(site, run=run)).metrics == {}


def test_what_cannot_be_kept_is_left_out(site: Site, tmp_path: Path) -> None:
    tags = [{"key": "\x00", "value": "x"}, {"key": "long", "value": "x" * 5000}, {"key": "n", "value": 7}, 7]
    metrics = [{"key": "auc", "value": 0.5}, {"key": "é", "value": 1}, {"key": "text", "value": "NaN"}]
    said = {"version": {**VERSION, "tags": tags}, "run": {"data": {"metrics": metrics}}}
    found = fetch("models:/lin@champion", tmp_path, offer(site, **said))
    assert found.metrics == {"auc": 0.5}
    assert not {"\x00", "long", "n"} & set(found.tags)


def test_a_name_is_quoted(site: Site, tmp_path: Path) -> None:
    asked: list[str] = []

    def search(path: str, headers: Asked) -> Page:
        asked.append(urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["filter"][0])
        return answer({"model_versions": [VERSION]})

    environment = offer(site)
    site.pages[f"{API}/model-versions/search"] = search
    fetch("models:/it's/latest", tmp_path, environment)
    assert asked == ["name='it\\'s'"]


@pytest.mark.parametrize(
    "text", ["models:/", "models:/a", "models:/a/b", "models:/a@", "models:/a/1/2", "models:/a@b/c"]
)
def test_names_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidInput, match="names no version"):
        parse_uri(text)


@pytest.mark.parametrize("url", ["", "sqlite:///m.db", "databricks", "file:///mlruns"])
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(InvalidInput, match="Set MLFLOW_TRACKING_URI"):
        open_source("models:/a/1", Options(environment={"MLFLOW_TRACKING_URI": url}))


def test_there_must_be_room(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.stores.sources.mlflow_registry.room_in", lambda folder: 3)
    with pytest.raises(LoadFailed, match="there is room for 3"):
        fetch("models:/lin@champion", tmp_path, offer(site))
