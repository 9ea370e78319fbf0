"""Models from snapshots of Hugging Face: by name and revision, and no link leads out."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.stores import StoreFailed
from salver.stores.sources import FetchedModel, silent
from salver.stores.sources.huggingface import cache_of
from salver.stores.sources.opening import Options, is_source, open_source
from salver.words.errors import InvalidInput

COMMIT, OLDER = "a" * 40, "b" * 40
FILES = {"README.md": b"---\nlicense: mit\n---\n# Card", "onnx/model.onnx": b"weights", "config.json": b"{}"}


def snapshot(cache: Path, name: str, commit: str, files: Mapping[str, bytes], **refs: str) -> Path:
    """As ``huggingface_hub`` lays it: blobs, and a folder of links into them."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for number, (path, content) in enumerate(files.items()):
        blob = repository / "blobs" / f"{commit[:4]}{number}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = repository / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for ref, meant in refs.items():
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(meant)
    return repository


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    snapshot(folder, "org/name", COMMIT, FILES, main=COMMIT)
    snapshot(folder, "org/name", OLDER, {"model.onnx": b"older"}, v1=OLDER)
    return folder


def fetch(text: str, cache: Path) -> FetchedModel:
    inside = cache.parent / f"in{len(list(cache.parent.iterdir()))}"
    inside.mkdir()
    return open_source(text, Options(environment={"HF_HUB_CACHE": str(cache)})).fetch(inside, silent)


def files(found: FetchedModel) -> dict[str, bytes]:
    all = [path for path in found.path.rglob("*") if path.is_file()]
    assert not any(path.is_symlink() for path in all)
    return {path.relative_to(found.path).as_posix(): path.read_bytes() for path in all}


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"], ids=["none", "branch", "commit"])
def test_by_name(cache: Path, revision: str) -> None:
    found = fetch(f"hf://org/name{revision}", cache)
    assert files(found) == FILES
    assert found.card == FILES["README.md"].decode()
    assert found.source == f"hf://org/name@{COMMIT}"


def test_by_an_older_tag(cache: Path) -> None:
    found = fetch("hf://org/name@v1", cache)
    assert files(found) == {"model.onnx": b"older"}
    assert (found.source, found.card) == (f"hf://org/name@{OLDER}", "")


def test_by_folder(cache: Path) -> None:
    repository = cache / "models--org--name"
    for folder in (repository, repository / "snapshots" / COMMIT):
        assert is_source(str(folder))
        assert fetch(str(folder), cache).source == f"hf://org/name@{COMMIT}"
    assert not is_source(str(cache))


def test_the_blobs_stay_as_they_are(cache: Path) -> None:
    found = fetch("hf://org/name", cache)
    for path in found.path.rglob("*"):
        if path.is_file():
            path.unlink()
    assert files(fetch("hf://org/name", cache)) == FILES


@pytest.mark.parametrize(
    "text",
    [
        "org/other",
        "org/name@v2",
        f"org/name@{'c' * 40}",
        "org/name@../../x",
        "../x",
        "a/b/c",
        "",
        "org/na--me",
        "org/..x",
    ],
)
def test_what_is_not_there(cache: Path, text: str) -> None:
    with pytest.raises(InvalidInput):
        fetch(f"hf://{text}", cache)


def test_a_reference_that_leads_elsewhere_is_none(cache: Path) -> None:
    (cache / "models--org--name" / "refs" / "odd").write_text("../../..")
    with pytest.raises(InvalidInput, match="no snapshot of the revision 'odd'"):
        fetch("hf://org/name@odd", cache)


@pytest.mark.parametrize(
    ("name", "to", "words"),
    [
        ("x", "/etc/passwd", "leads out of"),
        ("x", "../../../../secret", "leads out of"),
        ("x", "../../blobs/none", "dangling link"),
        ("x", "x", "dangling link|leads out of"),
        ("folder", "../../blobs", "is a link to a folder"),
    ],
    ids=["root", "up", "nowhere", "itself", "folder"],
)
def test_links_that_lead_out(cache: Path, name: str, to: str, words: str) -> None:
    (cache.parent / "secret").write_text("secret")
    (cache / "models--org--name" / "snapshots" / COMMIT / name).symlink_to(to)
    with pytest.raises(InvalidInput, match=words):
        fetch("hf://org/name", cache)


def test_a_folder_that_cannot_be_read_is_not_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str = ".") -> object:  # as another user's folder is, but for root
        if Path(path).name == "onnx":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StoreFailed, match="onnx cannot be read: Permission denied"):
        fetch("hf://org/name", cache)


def test_a_pipe_is_no_file(cache: Path) -> None:
    os.mkfifo(cache / "models--org--name" / "snapshots" / COMMIT / "pipe")
    with pytest.raises(InvalidInput, match="is not a file"):
        fetch("hf://org/name", cache)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
    ids=["cache", "home", "xdg"],
)
def test_where_the_cache_is(environment: Mapping[str, str], wanted: str) -> None:
    assert cache_of(environment) == Path(wanted)
