"""Models from OCI registries: a real one, and one that answers as it should not."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from docker_registry import (
    ANN,
    INDEX,
    MANIFEST,
    Registry,
    a_registry,
    one_with_passwords,
    one_with_tokens,
)
from sites import Asked, Page, Site

from salver.stores import StoreFailed
from salver.stores.sources import FetchedModel, silent
from salver.stores.sources.distribution import Distribution, descriptor, parse_reference
from salver.stores.sources.opening import Options, open_source
from salver.stores.sources.web import HttpError, Web
from salver.words.errors import InvalidInput, LoadFailed, SalverError

EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PACK = "application/vnd.cncf.model"
KIT = "application/vnd.kitops.modelkit"
FILE_PATH = "org.cncf.model.filepath"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with a_registry(tmp_path_factory.mktemp("registry")) as here:
        yield here


def tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as all:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            all.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def fetch(url: str, folder: Path, environment: Mapping[str, str] | None = None) -> FetchedModel:
    home = {"HOME": str(folder), **(environment or {})}
    (folder / "in").mkdir()
    return open_source(url, Options(environment=home)).fetch(folder / "in", silent)


def files(found: FetchedModel) -> dict[str, bytes]:
    all = (path for path in found.path.rglob("*") if path.is_file())
    return {path.relative_to(found.path).as_posix(): path.read_bytes() for path in all}


def push_car(registry: Registry, name: str, tag: str, *some: Mapping[str, bytes]) -> dict[str, Any]:
    """A ModelCar, as an image builder pushes it."""
    config = registry.blob(name, b"{}", "application/vnd.oci.image.config.v1+json")
    pushed = [registry.blob(name, gzip.compress(tar(each)), LAYER) for each in some]
    return registry.manifest(name, tag, {"config": config, "layers": pushed})


def test_a_model_car_by_tag_and_by_digest(registry: Registry, tmp_path: Path) -> None:
    base = {"bin/sh": b"shell", "models/old.onnx": b"old", "models/README.md": b"# Mine"}
    upper = {"models/.wh.old.onnx": b"", "models/model.onnx": b"weights"}
    pushed = push_car(registry, "cars/fraud", "v1", base, upper)
    by_tag = fetch(f"oci://{registry.host}/cars/fraud:v1", tmp_path)
    assert files(by_tag) == {"model.onnx": b"weights", "README.md": b"# Mine"}
    assert by_tag.card == "# Mine"
    assert by_tag.source == f"oci://{registry.host}/cars/fraud@{pushed['digest']}"
    assert by_tag.tags == {"oci.tag": "v1"}
    (tmp_path / "again").mkdir()
    again = fetch(by_tag.source, tmp_path / "again")
    assert files(again) == files(by_tag)
    assert (again.source, again.tags) == (by_tag.source, {})


def test_a_model_pack(registry: Registry, tmp_path: Path) -> None:
    said = {
        "descriptor": {
            "name": "fraud",
            "family": "trees",
            "licenses": ["MIT", "Apache-2.0"],
            "createdAt": None,
        },
        "config": {"format": "onnx", "paramSize": "1k", "odd\x00": "x", "capabilities": {"x": 1}},
        "modelfs": {"type": "layers", "diffIds": []},
    }
    name, zipped = "packs/fraud", gzip.compress(tar({"labels.txt": b"a b"}))
    layers = [
        registry.blob(name, b"weights", f"{PACK}.weight.v1.raw", **{FILE_PATH: "model.onnx"}),
        registry.blob(name, b"{}", f"{PACK}.weight.config.v1.raw", **{FILE_PATH: "conf/config.json"}),
        registry.blob(name, tar({"README.md": b"# Pack"}), f"{PACK}.doc.v1.tar", **{FILE_PATH: "README.md"}),
        registry.blob(name, zipped, f"{PACK}.code.v1.tar+gzip"),
        registry.blob(name, b"rows", f"{PACK}.dataset.v1.raw", **{FILE_PATH: "train.csv"}),
    ]
    config = registry.blob(name, json.dumps(said).encode(), f"{PACK}.config.v1+json")
    registry.manifest(
        name, "latest", {"artifactType": f"{PACK}.manifest.v1+json", "config": config, "layers": layers}
    )
    found = fetch(f"oci://{registry.host}/{name}", tmp_path)
    assert files(found) == {
        "model.onnx": b"weights",
        "conf/config.json": b"{}",
        "README.md": b"# Pack",
        "labels.txt": b"a b",
    }
    assert found.card == "# Pack"
    assert found.tags == {
        "oci.tag": "latest",
        "model.name": "fraud",
        "model.family": "trees",
        "model.licenses": "MIT, Apache-2.0",
        "model.format": "onnx",
        "model.paramSize": "1k",
    }


def test_a_model_kit_and_what_oras_pushes(registry: Registry, tmp_path: Path) -> None:
    name = "kits/fraud"
    kit = [
        registry.blob(name, gzip.compress(tar({"model.onnx": b"kit"})), f"{KIT}.model.v1.tar+gzip"),
        registry.blob(name, tar({"data.csv": b"rows"}), f"{KIT}.dataset.v1.tar"),
    ]
    config = registry.blob(name, b'{"manifestVersion": "1.0.0"}', f"{KIT}.config.v1+json")
    registry.manifest(name, "kit", {"config": config, "layers": kit})
    plain = [
        registry.blob(
            name, b"oras", "application/octet-stream", **{"org.opencontainers.image.title": "m.onnx"}
        ),
        registry.blob(
            name,
            gzip.compress(tar({"more/labels.txt": b"a"})),
            "application/vnd.oci.image.layer.v1.tar+gzip",
            **{"org.opencontainers.image.title": "more", "io.deis.oras.content.unpack": "true"},
        ),
    ]
    empty = registry.blob(name, b"{}", EMPTY)
    registry.manifest(name, "oras", {"config": empty, "layers": plain})
    for tag in ("kit", "oras"):
        (tmp_path / tag).mkdir()
    assert files(fetch(f"oci://{registry.host}/{name}:kit", tmp_path / "kit")) == {"model.onnx": b"kit"}
    assert files(fetch(f"oci://{registry.host}/{name}:oras", tmp_path / "oras")) == {
        "m.onnx": b"oras",
        "more/labels.txt": b"a",
    }


def test_of_an_index_the_one_for_this_machine(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = []
    for machine in ("arm64", "amd64"):
        pushed = push_car(registry, "many", machine, {"models/m": machine.encode()})
        some.append({**pushed, "platform": {"os": "linux", "architecture": machine}})
    registry.manifest("many", "all", {"manifests": some}, INDEX)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = fetch(f"oci://{registry.host}/many:all", tmp_path)
    assert files(found) == {"m": b"amd64"}
    assert found.source.endswith(some[1]["digest"])
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreFailed, match="without a manifest for linux/s390x"):
        fetch(f"oci://{registry.host}/many:all", tmp_path / "other")


def test_what_is_not_there_is_told(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="404"):
        fetch(f"oci://{registry.host}/no/such:v1", tmp_path)


def config_with(folder: Path, host: str, login: tuple[str, str], identity: str = "") -> Mapping[str, str]:
    """What ``docker login`` leaves."""
    folder.mkdir()
    kept = {"auth": base64.b64encode(":".join(login).encode()).decode(), "identitytoken": identity}
    (folder / "config.json").write_text(json.dumps({"auths": {host: kept}}))
    return {"DOCKER_CONFIG": str(folder)}


def test_a_registry_that_wants_a_password(tmp_path: Path) -> None:
    with one_with_passwords(tmp_path / "registry") as registry:
        push_car(registry, "mine/m", "v1", {"models/m": b"x"})
        url = f"oci://{registry.host}/mine/m:v1"
        known = config_with(tmp_path / "docker", registry.host, ANN)
        wrong = config_with(tmp_path / "wrong", registry.host, ("ann", "other"))
        assert files(fetch(url, tmp_path, known)) == {"m": b"x"}
        for number, (environment, words) in enumerate([({}, "docker login"), (wrong, "401")]):
            (tmp_path / str(number)).mkdir()
            with pytest.raises(StoreFailed, match=words) as raised:
                fetch(url, tmp_path / str(number), environment)
            assert "other" not in str(raised.value)


def test_a_registry_that_wants_a_token(tmp_path: Path, site: Site) -> None:
    with one_with_tokens(tmp_path / "registry", site) as registry:
        push_car(registry, "mine/m", "v1", {"models/m": b"x"})
        known = config_with(tmp_path / "docker", registry.host, ANN)
        assert files(fetch(f"oci://{registry.host}/mine/m:v1", tmp_path, known)) == {"m": b"x"}
    path, headers = site.asked[-1]
    assert "scope=repository%3Amine%2Fm%3Apull" in path
    assert "service=tests" in path
    assert headers["authorization"] == f"Basic {base64.b64encode(b'ann:secret').decode()}"
    assert len(site.asked) == 1


def test_a_registry_that_gives_tokens_for_that_of_an_identity(tmp_path: Path, site: Site) -> None:
    with one_with_tokens(tmp_path / "registry", site) as registry:
        push_car(registry, "mine/m", "v1", {"models/m": b"x"})
        known = config_with(tmp_path / "docker", registry.host, ("00000000-0000", ""), "to+ken/=")
        assert files(fetch(f"oci://{registry.host}/mine/m:v1", tmp_path, known)) == {"m": b"x"}
    ((path, headers),) = site.asked
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(path).query) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["to+ken/="],
        "client_id": ["salver"],
        "service": ["tests"],
        "scope": ["repository:mine/m:pull"],
    }
    assert headers["content-type"] == "application/x-www-form-urlencoded"  # not a query
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Bearer realm="{site}/elsewhere"', "307"),
        ('Bearer realm="{site}/refused"', "400 .*expired"),
        ('Bearer realm="{site}/text"', "not JSON"),
        ('Basic realm="x"', "401.*docker login"),
    ],
)
def test_a_token_of_an_identity_goes_nowhere_else(
    site: Site, tmp_path: Path, challenge: str, words: str
) -> None:
    url = offer(site, GOOD)
    site.pages["/elsewhere"] = Page(b"", 307, {"Location": f"{site.url}/other"})
    site.pages["/refused"] = Page(b'{"error": "expired"}', 400)
    site.pages["/text"] = Page(b"fine")
    refused = Page(b"", 401, {"WWW-Authenticate": challenge.format(site=site.url)})
    site.pages["/v2/m/manifests/latest"] = refused
    known = config_with(tmp_path / "docker", site.host, ("", ""), "secret")
    with pytest.raises(StoreFailed, match=words) as raised:
        fetch(url, tmp_path, known)
    assert "secret" not in str(raised.value)
    assert "/other" not in {path.partition("?")[0] for path, _ in site.asked}


# -- registries that answer as they should not -----------------------------------------------------


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(content: bytes, kind: str = LAYER, **other: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(content), "size": len(content), **other}


BLOB = gzip.compress(tar({"models/m": b"x"}), mtime=0)
CONFIG = described(b"{}", EMPTY)
GOOD = {"config": CONFIG, "layers": [described(BLOB)]}


def offer(site: Site, said: Any, blob: bytes = BLOB) -> str:
    """A registry with one manifest and one blob; its URL for us."""
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    site.pages["/v2/m/manifests/latest"] = Page(content, headers={"Content-Type": MANIFEST})
    site.pages[f"/v2/m/blobs/{digest(BLOB)}"] = Page(blob)
    return f"oci://{site.host}/m"


def test_one_that_answers_as_it_should(site: Site, tmp_path: Path) -> None:
    assert files(fetch(offer(site, GOOD), tmp_path)) == {"m": b"x"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        ({}, "without layers"),
        ({**GOOD, "layers": []}, "without layers"),
        ({**GOOD, "layers": [described(BLOB)] * 513}, "too many"),
        ({**GOOD, "layers": [7]}, "by no type, digest and size"),
        ({**GOOD, "layers": [{**described(BLOB), "digest": "md5:00"}]}, "by no type"),
        ({**GOOD, "layers": [{**described(BLOB), "digest": "sha256:../../x"}]}, "by no type"),
        ({**GOOD, "layers": [{**described(BLOB), "size": -1}]}, "by no type"),
        ({**GOOD, "layers": [{**described(BLOB), "size": True}]}, "by no type"),
        ({**GOOD, "layers": [{**described(BLOB), "size": 1 << 49}]}, "there is room for"),
        (
            {**GOOD, "layers": [{**described(BLOB), "size": len(BLOB) - 1}]},
            "more than|bytes, and there is room",
        ),
        ({**GOOD, "layers": [{**described(BLOB), "size": len(BLOB) + 1}]}, "bytes, and should have"),
        ({**GOOD, "layers": [described(BLOB, "text/plain")]}, "is not known"),
        ({**GOOD, "layers": [described(BLOB, f"{PACK}.weight.v1.raw")]}, "without a name"),
        ({**GOOD, "layers": [described(BLOB, annotations={FILE_PATH: "../m"})]}, "is outside"),
        ({**GOOD, "layers": [described(BLOB, annotations={FILE_PATH: "/etc/m"})]}, "is outside"),
        ({"manifests": []}, "without a manifest"),
        ({"manifests": [described(b"none")]}, "404"),
    ],
    ids=[
        "list",
        "broken",
        "empty",
        "no-layers",
        "many-layers",
        "odd-layer",
        "odd-digest",
        "path-digest",
        "negative",
        "bool",
        "huge",
        "larger",
        "smaller",
        "kind",
        "nameless",
        "up",
        "root",
        "empty-index",
        "gone",
    ],
)
def test_manifests_that_cannot_be(site: Site, tmp_path: Path, said: Any, words: str) -> None:
    with pytest.raises(SalverError, match=words):
        fetch(offer(site, said), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("m", "etc")]


@pytest.mark.parametrize("blob", [BLOB[:-1] + b"!", b"!" + BLOB[1:]], ids=["end", "beginning"])
def test_a_blob_that_was_changed_is_refused(site: Site, tmp_path: Path, blob: bytes) -> None:
    with pytest.raises(StoreFailed, match="is not what its digest says"):
        fetch(offer(site, GOOD, blob), tmp_path)


def test_a_manifest_that_was_changed_is_refused(site: Site, tmp_path: Path) -> None:
    content = json.dumps(GOOD).encode()
    offer(site, GOOD)
    site.pages[f"/v2/m/manifests/{digest(content)}"] = Page(content + b" ")
    with pytest.raises(StoreFailed, match="is not what its digest says"):
        fetch(f"oci://{site.host}/m@{digest(content)}", tmp_path)


def test_a_tag_whose_digest_is_told_wrongly_is_refused(site: Site, tmp_path: Path) -> None:
    url = offer(site, GOOD)
    site.pages["/v2/m/manifests/latest"] = Page(
        json.dumps(GOOD).encode(), headers={"Docker-Content-Digest": digest(b"other")}
    )
    with pytest.raises(StoreFailed, match="is not what its digest says"):
        fetch(url, tmp_path)


def test_an_index_within_an_index_is_no_manifest(site: Site, tmp_path: Path) -> None:
    inner = json.dumps({"manifests": [described(b"x", INDEX)]}).encode()
    url = offer(site, {"manifests": [described(inner, INDEX)]})
    site.pages[f"/v2/m/manifests/{digest(inner)}"] = Page(inner)
    with pytest.raises(StoreFailed, match="without layers"):
        fetch(url, tmp_path)


def test_an_image_without_models_holds_none(site: Site, tmp_path: Path) -> None:
    blob = gzip.compress(tar({"etc/passwd": b"x"}))
    url = offer(site, {**GOOD, "layers": [described(blob)]})
    site.pages[f"/v2/m/blobs/{digest(blob)}"] = Page(blob)
    with pytest.raises(InvalidInput, match="holds no model"):
        fetch(url, tmp_path)


def test_a_bomb_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.stores.unpack._FREE", 1 << 20)
    blob = gzip.compress(tar({"models/m": bytes(20 << 20)}))
    url = offer(site, {**GOOD, "layers": [described(blob)]})
    site.pages[f"/v2/m/blobs/{digest(blob)}"] = Page(blob)
    with pytest.raises(LoadFailed, match="larger"):
        fetch(url, tmp_path)


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("Negotiate", "'Negotiate', which is not known"),
        ("Bearer", "'Bearer', which is not known"),
        ('Bearer realm="ftp://x/y"', "no URL of HTTP"),
        ('Bearer realm="{site}/token"', "returns no token"),
        ('Bearer realm="{site}/none"', "404"),
        ('Bearer realm="{site}/fine"', "401"),
    ],
)
def test_challenges_that_lead_nowhere(site: Site, tmp_path: Path, challenge: str, words: str) -> None:
    url = offer(site, GOOD)
    site.pages["/token"] = Page(b'{"token": "a\\nb"}')
    site.pages["/fine"] = Page(b'{"access_token": "abc"}')

    def refuse(path: str, asked: Asked) -> Page:
        return Page(b"", 401, {"WWW-Authenticate": challenge.format(site=site.url)})

    site.pages["/v2/m/manifests/latest"] = refuse
    with pytest.raises(StoreFailed, match=words):
        fetch(url, tmp_path)
    assert len([path for path, _ in site.asked if "manifests" in path]) <= 2


@pytest.mark.parametrize(("name", "password"), [("ann", "secret"), ("<token>", "secret")])
def test_who_we_are_is_told_over_https_alone(site: Site, name: str, password: str) -> None:
    """A registry that is asked over TLS may send us to another server, but not without it."""
    repository = Distribution(Web(), parse_reference("r.example/m"), lambda host: (name, password))

    def refusing(_: Mapping[str, str]) -> None:
        raise HttpError("no", 401, f'Bearer realm="{site.url}/token"')

    with pytest.raises(HttpError, match="which is not https"):
        repository._authorized(refusing)
    assert site.asked == []


@pytest.mark.parametrize(
    ("text", "base", "pinned"),
    [
        ("localhost:5000/m", "http://localhost:5000/v2/m", "latest"),
        ("127.0.0.1/a/b:v1", "http://127.0.0.1/v2/a/b", "v1"),
        ("[::1]:5000/a__b", "http://[::1]:5000/v2/a__b", "latest"),
        ("ghcr.example/org/m:V_1.0-x", "https://ghcr.example/v2/org/m", "V_1.0-x"),
        ("docker.io/acme/m", "https://registry-1.docker.io/v2/acme/m", "latest"),
        (f"r.example:8443/m:v1@{digest(b'')}", "https://r.example:8443/v2/m", "v1"),
    ],
)
def test_references(text: str, base: str, pinned: str) -> None:
    found = parse_reference(text)
    assert (found.base, found.tag) == (base, pinned)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "host/",
        "host/M",
        "host/a//b",
        "host/../b",
        "host/m:",
        "host/m@sha256:00",
        "host/m?x",
        "-h/m",
        "h/m\n",
        "u:p@host/m",
        "host:123456/m",
        "host/" + "a" * 600,
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidInput, match="names nothing in a registry"):
        parse_reference(text)


def test_a_description_keeps_what_it_says() -> None:
    found = descriptor({**described(b"x"), "annotations": [], "platform": {"os": "linux"}}, "here")
    assert (found.annotations, found.platform) == ({}, {"os": "linux"})
