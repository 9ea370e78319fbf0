"""Models from URLs: with a digest, and unpacked where they are archives."""

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from backports import zstd
from sites import Page, Site

from salver.stores import StoreFailed
from salver.stores.sources import silent
from salver.stores.sources.opening import Options, open_source
from salver.words.errors import InvalidInput, LoadFailed

WEIGHTS = b"weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    """Members are a name, a kind, and content or where a link leads."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as all:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            all.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(*members: tuple[str, int, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as all:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            all.writestr(info, content)
    return packed.getvalue()


REG, LINK, HARD, PIPE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


def test_a_file(site: Site, tmp_path: Path) -> None:
    site.pages["/a/model.onnx"] = Page(WEIGHTS)
    url = f"{site.url}/a/model.onnx"
    found = open_source(f"{url}#sha256={sha256(WEIGHTS).upper()}", Options()).fetch(tmp_path, silent)
    assert found.path.name == "model.onnx"
    assert found.path.read_bytes() == WEIGHTS
    assert (found.source, found.card) == (f"{url}#sha256={sha256(WEIGHTS)}", "")


CARD_AND_WEIGHTS = (("m-1/README.md", REG, b"# Card"), ("m-1/model.onnx", REG, WEIGHTS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.tar.gz", tar(*CARD_AND_WEIGHTS)),
        ("m.tgz", tar(("README.md", REG, b"# Card"), ("model.onnx", REG, WEIGHTS))),
        ("m.tar.zst", zstd.compress(gzip.decompress(tar(*CARD_AND_WEIGHTS)))),
        ("m.ZIP", zipped(("m/README.md", 0, b"# Card"), ("m/model.onnx", 0, WEIGHTS))),
    ],
)
def test_an_archive_is_unpacked(site: Site, tmp_path: Path, name: str, content: bytes) -> None:
    site.pages[f"/{name}"] = Page(content)
    found = open_source(f"{site.url}/{name}#sha256={sha256(content)}", Options()).fetch(tmp_path, silent)
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == {
        "README.md": b"# Card",
        "model.onnx": WEIGHTS,
    }
    assert found.card == "# Card"


def test_a_folder_of_versions_stays_as_it_is(site: Site, tmp_path: Path) -> None:
    content = tar(("1/model.onnx", REG, WEIGHTS))
    site.pages["/m.tgz"] = Page(content)
    found = open_source(f"{site.url}/m.tgz#sha256={sha256(content)}", Options()).fetch(tmp_path, silent)
    assert (found.path / "1" / "model.onnx").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.tgz", tar(("../x", REG, b"x")), "is outside"),
        ("m.tgz", tar(("/x", REG, b"x")), "is outside"),
        ("m.tgz", tar(("x", LINK, b"/etc/passwd")), "is a link"),
        ("m.tgz", tar(("x", LINK, b"y")), "is a link"),
        ("m.tgz", tar(("y", REG, b"y"), ("x", HARD, b"y")), "is a link"),
        ("m.tgz", tar(("x", PIPE, b"")), "not a file, folder or link"),
        ("m.tgz", tar(("zeros", REG, bytes(20 << 20))), "larger"),
        ("m.tgz", b"no archive", "cannot be unpacked"),
        ("m.zip", zipped(("../x", 0, b"x")), "is outside"),
        ("m.zip", zipped(("a/../../x", 0, b"x")), "is outside"),
        ("m.zip", zipped(("x", stat.S_IFLNK | 0o777, b"/etc/passwd")), "is a link"),
        ("m.zip", zipped(("zeros", 0, bytes(20 << 20))), "no honest archive"),
        ("m.zip", b"no archive", "cannot be unpacked"),
    ],
    ids=[
        "tar-up",
        "tar-root",
        "tar-link",
        "tar-link-inside",
        "tar-hard",
        "tar-pipe",
        "tar-bomb",
        "tar-none",
        "zip-up",
        "zip-hidden-up",
        "zip-link",
        "zip-bomb",
        "zip-none",
    ],
)
def test_archives_that_would_do_harm(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, words: str
) -> None:
    monkeypatch.setattr("salver.stores.unpack._FREE", 1 << 20)
    site.pages[f"/{name}"] = Page(content)
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(LoadFailed, match=words):
        open_source(f"{site.url}/{name}#sha256={sha256(content)}", Options()).fetch(inside, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_wrong_digest(site: Site, tmp_path: Path) -> None:
    site.pages["/m.onnx"] = Page(WEIGHTS)
    with pytest.raises(StoreFailed, match="is not what its digest says"):
        open_source(f"{site.url}/m.onnx#sha256={'0' * 64}", Options()).fetch(tmp_path, silent)


def test_without_a_digest_only_who_says_so(site: Site, tmp_path: Path) -> None:
    site.pages["/m.onnx"] = Page(WEIGHTS)
    with pytest.raises(InvalidInput, match="--unverified"):
        open_source(f"{site.url}/m.onnx?token=secret", Options())
    found = open_source(f"{site.url}/m.onnx?token=secret", Options(is_unverified=True)).fetch(
        tmp_path, silent
    )
    assert found.source == f"{site.url}/m.onnx#sha256={sha256(WEIGHTS)}"


@pytest.mark.parametrize(
    "url",
    [
        "https://host/m.onnx#sha256=00",
        "https://host/m.onnx#md5=0",
        "https://host/m.onnx#main",
        "https://host/#sha256=" + "0" * 64,
        "https://host/.hidden#sha256=" + "0" * 64,
        "https://host/a%2fb%5cc#sha256=" + "0" * 64,
        "https://host/a%0ab#sha256=" + "0" * 64,
        "https://host/" + "a" * 300 + "#sha256=" + "0" * 64,
    ],
    ids=["short", "md5", "other", "no-name", "hidden", "backslash", "newline", "long"],
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_source(url, Options())


def test_a_card_that_is_no_text_is_told(site: Site, tmp_path: Path) -> None:
    content = tar(("README.md", REG, b"\xff\xfe"), ("model.onnx", REG, WEIGHTS))
    site.pages["/m.tgz"] = Page(content)
    with pytest.raises(InvalidInput, match=r"README\.md cannot be read"):
        open_source(f"{site.url}/m.tgz#sha256={sha256(content)}", Options()).fetch(tmp_path, silent)
