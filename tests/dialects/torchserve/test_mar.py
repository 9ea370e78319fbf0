"""Manifests of archives, and unpacking (TS-A1, TS-A8)."""

import contextlib
import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from archivers import run_archiver
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.archive import describe
from salver.dialects.torchserve.archive_files import (
    MANIFEST,
    HandlerArchive,
    is_inside,
    parse,
    read_archive,
    read_text,
    unpack_archive,
)
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.stores import unpack, unzip
from salver.words.errors import BadArchive, LoadFailed, SalverError

HANDLER = "def handle(data, context):\n    return ['OK'] * len(data)\n"


def manifest(name: str = "noop", runtime: str = "python", **model: Any) -> str:
    said = {"modelName": name, "modelVersion": "1.0", "handler": "noop.py", **model}
    return json.dumps({"runtime": runtime, "model": said, "archiverVersion": "0.12.0"})


def mar(path: Path, files: dict[str, str] | None = None, **model: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(MANIFEST, manifest(**model))
        for name, text in (files or {"noop.py": HANDLER}).items():
            opened.writestr(name, text)
    return path


def archived(folder: Path, kind: str, *more: str) -> Path:
    """Return an archive made by the unmodified archiver."""
    source = folder / "source"
    source.mkdir()
    (source / "noop.py").write_text(HANDLER)
    (source / "labels.json").write_text('{"0": "ant"}')
    (source / "requirements.txt").write_text("numpy\n")
    (source / "model-config.yaml").write_text("batchSize: 3\n")
    out = folder / "out"
    out.mkdir()
    options = [
        "--model-name",
        "noop",
        "--version",
        "2.1",
        "--handler",
        "noop.py",
        "--extra-files",
        "labels.json",
    ]
    options += ["--requirements-file", "requirements.txt", "--config-file", "model-config.yaml"]
    options += ["--export-path", str(out), "--archive-format", kind, *more]
    run_archiver("torch-model-archiver", *options, work=source)
    return next(out.iterdir())


@pytest.mark.clause("TS-A1", "TS-A8")
@pytest.mark.parametrize("kind", ["default", "zip-store", "tgz", "no-archive"])
def test_archives_of_the_archiver_are_read_and_unpacked(kind: str, tmp_path: Path) -> None:
    path = archived(tmp_path, kind)
    said = read_archive(path)
    assert said == HandlerArchive(
        "noop",
        "2.1",
        "noop.py",
        requirements_file="requirements.txt",
        config_file="model-config.yaml",
        extra_files=said.extra_files,
    )
    assert read_text(path, "model-config.yaml") == b"batchSize: 3\n"
    assert read_text(path, "none.yaml") is None
    root = path
    if not path.is_dir():
        (target := tmp_path / "target").mkdir()
        root = unpack_archive(path, target)
    assert {file.name for file in root.rglob("*") if file.is_file()} == {
        "noop.py",
        "labels.json",
        "requirements.txt",
        "model-config.yaml",
        "MANIFEST.json",
    }
    assert (root / "noop.py").read_text() == HANDLER


MANIFESTS: list[tuple[str, str, HandlerArchive]] = [
    ("the least", '{"model": {"modelName": "m"}}', HandlerArchive("m")),
    (
        "a version that is a number",
        '{"model": {"modelName": "m", "modelVersion": 2}}',
        HandlerArchive("m", "2"),
    ),
    (
        "everything",
        json.dumps(
            {
                "createdOn": "today",
                "runtime": "python3",
                "model": {
                    "modelName": "a b",
                    "modelVersion": "v1",
                    "handler": "h.py:run",
                    "serializedFile": "m.pt",
                    "modelFile": "net.py",
                    "envelope": "json",
                    "requirementsFile": "r.txt",
                    "configFile": "c.yaml",
                    "extraFiles": "a.json, b/c.txt",
                    "description": "x",
                },
            }
        ),
        HandlerArchive(
            "a b",
            "v1",
            "h.py:run",
            "m.pt",
            "net.py",
            "json",
            "r.txt",
            "c.yaml",
            ("a.json", "b/c.txt"),
            "python3",
        ),
    ),
    ("no name", '{"model": {}}', HandlerArchive()),
]


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize(("content", "expected"), [m[1:] for m in MANIFESTS], ids=[m[0] for m in MANIFESTS])
def test_manifests(content: str, expected: HandlerArchive) -> None:
    assert parse(content.encode(), "m.mar") == expected


WRONG: list[tuple[str, str]] = [
    ("{", "no JSON"),
    ("[]", "Missing Model entry in manifest file."),
    ('{"model": 3}', "Missing Model entry in manifest file."),
    ('{"model": {"modelName": ["x"]}}', "'modelName'"),
    ('{"model": {"modelName": "a\\nb"}}', "'modelName'"),
    ('{"model": {"modelName": "m", "modelVersion": "a\\u0000"}}', "'modelVersion'"),
    ('{"model": {"modelName": "m", "handler": "../x.py"}}', "'handler'"),
    ('{"model": {"modelName": "m", "handler": "/x.py:run"}}', "'handler'"),
    ('{"model": {"modelName": "m", "configFile": "/etc/passwd"}}', "'configFile'"),
    ('{"model": {"modelName": "m", "requirementsFile": "a\\\\..\\\\..\\\\r"}}', "'requirementsFile'"),
    ('{"model": {"modelName": "m", "extraFiles": {"a": 1}}}', "'extraFiles'"),
    ('{"runtime": "perl", "model": {"modelName": "m"}}', "Invalid RuntimeType value: perl"),
]


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize(("content", "words"), WRONG)
def test_what_a_manifest_cannot_say_is_named(content: str, words: str) -> None:
    with pytest.raises(BadArchive) as raised:
        parse(content.encode(), "m.mar")
    assert words in raised.value.message


@pytest.mark.clause("TS-A1")
@given(
    st.binary(max_size=300)
    | st.text(max_size=100).map(lambda t: json.dumps({"model": {"modelName": t}}).encode())
)
def test_any_manifest_is_read_or_refused(content: bytes) -> None:
    try:
        said = parse(content, "m.mar")
    except BadArchive:
        return
    assert said.name.isprintable()


@pytest.mark.clause("TS-A1")
@given(st.text(alphabet="a./\\:\n", max_size=12))
def test_what_is_inside_stays_inside(name: str) -> None:
    if is_inside(name):
        assert Path("/box", name).resolve().is_relative_to("/box")


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize("name", ["no_archive.mar", "readme.txt", "noop.tar.gz"])
def test_what_is_no_archive_has_no_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not a model\n")
    with pytest.raises(BadArchive, match=r"Model name is not defined\."):
        read_archive(tmp_path / name)
    with pytest.raises(BadArchive):
        read_archive(tmp_path / "missing.mar")


@pytest.mark.clause("TS-A1")
def test_an_archive_without_a_manifest_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("noop.py", HANDLER)
    assert read_archive(path) == HandlerArchive()
    (tmp_path / "folder").mkdir()
    assert read_archive(tmp_path / "folder") == HandlerArchive()


def member(name: str, mode: int = 0, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


HOSTILE: list[tuple[str, zipfile.ZipInfo, str]] = [
    ("out by dots", member("../evil.py"), "is outside"),
    ("out by dots below", member("a/../../evil.py"), "is outside"),
    ("absolute", member("/tmp/evil.py"), "is outside"),
    ("of another system", member("..\\evil.py"), "is outside"),
    ("of a drive", member("C:/evil.py"), "is outside"),
    ("not printable", member("a\rb"), "is outside"),
    ("too long", member("a/" * 600 + "b"), "is outside"),
    ("a link", member("link", stat.S_IFLNK | 0o777), "is a link"),
    ("a device", member("dev", stat.S_IFCHR | 0o666), "no file or folder"),
    ("a pipe", member("pipe", stat.S_IFIFO | 0o666), "no file or folder"),
]


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize(("info", "words"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_zips_are_refused_by_member(info: zipfile.ZipInfo, words: str, tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(info, "evil")
    (target := tmp_path / "deep" / "target").mkdir(parents=True)
    with pytest.raises(BadArchive, match=words):
        unpack_archive(path, target)
    outside = [file for file in tmp_path.rglob("*") if file.is_file() and target not in file.parents]
    assert outside == [path]
    assert not any(file.is_symlink() for file in tmp_path.rglob("*"))


def patched(path: Path, signature: bytes, offset: int, value: bytes) -> Path:
    """Replace bytes behind a zip's signature, everywhere."""
    content = bytearray(path.read_bytes())
    at = content.find(signature)
    while at >= 0:
        content[at + offset : at + offset + len(value)] = value
        at = content.find(signature, at + 4)
    path.write_bytes(content)
    return path


@pytest.mark.clause("TS-A1")
def test_encrypted_and_broken_members_are_named(tmp_path: Path) -> None:
    locked = patched(mar(tmp_path / "locked.mar"), b"PK\x01\x02", 8, b"\x01\x00")
    with pytest.raises(BadArchive, match=r"'MAR-INF/MANIFEST.json' is encrypted"):
        read_archive(locked)
    (target := tmp_path / "target").mkdir()
    with pytest.raises(BadArchive, match="is encrypted"):
        unpack_archive(locked, target)
    odd = patched(mar(tmp_path / "odd.mar"), b"PK\x01\x02", 10, b"\x63\x00")
    with pytest.raises(BadArchive, match="is packed by method 99, and not by deflate"):
        unpack_archive(odd, target)
    broken = mar(tmp_path / "broken.mar", {"big.py": "x = 1\n" * 5000})
    at = broken.read_bytes().find(b"big.py") + 20
    content = bytearray(broken.read_bytes())
    content[at : at + 8] = b"\0" * 8
    broken.write_bytes(content)
    (target := tmp_path / "other").mkdir()
    with pytest.raises(BadArchive, match=r"'big.py' cannot be unpacked"):
        unpack_archive(broken, target)
    cut = tmp_path / "cut.mar"
    cut.write_bytes(mar(tmp_path / "whole.mar").read_bytes()[:-30])
    with pytest.raises(BadArchive, match=r"Model name is not defined\."):
        read_archive(cut)


@pytest.mark.clause("TS-A1")
def test_bombs_are_refused_before_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_FREE", 1 << 20)
    path = mar(tmp_path / "m.mar", {"zeros.bin": "\0" * (4 << 20)})
    (target := tmp_path / "target").mkdir()
    with pytest.raises(BadArchive, match=r"'zeros.bin'"):
        unpack_archive(path, target)
    assert not list(target.iterdir())
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("zeros.bin")
        info.size = 4 << 20
        tar.addfile(info, io.BytesIO(b"\0" * info.size))
    with pytest.raises(BadArchive, match="than there is room for"):
        unpack_archive(tmp_path / "m.tar.gz", target)
    with pytest.raises(BadArchive, match=r"implausibly large when unpacked, at member 'zeros.bin'"):
        read_archive(tmp_path / "m.tar.gz")
    monkeypatch.setattr(unzip, "MOST_MEMBERS", 1)
    with pytest.raises(BadArchive, match="has 2 members"):
        unpack_archive(mar(tmp_path / "many.mar"), target)
    monkeypatch.setattr(unzip, "room_in", lambda folder: 10)
    monkeypatch.setattr(unzip, "MOST_MEMBERS", 10)
    with pytest.raises(BadArchive, match="room for 10"):
        unpack_archive(mar(tmp_path / "large.mar"), target)


@pytest.mark.clause("TS-A1")
def test_a_member_that_is_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar", {"zeros.bin": "\0" * 50_000})
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02")  # of the last member: its size in the directory
    content[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    (target := tmp_path / "target").mkdir()
    with pytest.raises(BadArchive, match=r"zeros.bin"):
        unpack_archive(path, target)


@pytest.mark.clause("TS-A1")
def test_members_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar")
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as opened:
        opened.writestr("noop.py", "other")
    (target := tmp_path / "target").mkdir()
    with pytest.raises(BadArchive, match=r"'noop.py' twice"):
        unpack_archive(path, target)
    folder_and_file = mar(tmp_path / "n.mar", {"a": "x", "a/b": "y"})
    (target := tmp_path / "other").mkdir()
    with pytest.raises(BadArchive, match=r"'a/b' cannot be unpacked"):
        unpack_archive(folder_and_file, target)


def tgz(path: Path, *more: tuple[str, bytes, str]) -> Path:
    """Make an archive with further members, each given as name, type and target of a link."""
    with tarfile.open(path, "w:gz") as tar:
        files = {f"m/{MANIFEST}": manifest(), "m/noop.py": HANDLER}
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, kind, to in more:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    return path


HOSTILE_TARS: list[tuple[str, tuple[str, bytes, str]]] = [
    ("out by dots", ("m/../../evil.py", tarfile.REGTYPE, "")),
    ("absolute", ("/tmp/evil.py", tarfile.REGTYPE, "")),
    ("a link", ("m/odd", tarfile.SYMTYPE, "m/noop.py")),
    ("a hard link", ("m/odd", tarfile.LNKTYPE, "m/noop.py")),
    ("a device", ("m/odd", tarfile.CHRTYPE, "")),
    ("a pipe", ("m/odd", tarfile.FIFOTYPE, "")),
]


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize("member", [h[1] for h in HOSTILE_TARS], ids=[h[0] for h in HOSTILE_TARS])
def test_hostile_tars_are_refused_before_they_are_unpacked_and_then(
    member: tuple[str, bytes, str], tmp_path: Path
) -> None:
    path = tgz(tmp_path / "m.tar.gz", member)
    with pytest.raises(BadArchive, match=member[0]):
        describe(path)
    (target := tmp_path / "deep" / "target").mkdir(parents=True)
    with pytest.raises(BadArchive, match=member[0]):
        unpack_archive(path, target)
    assert [file for file in tmp_path.rglob("*") if file.is_file() and target not in file.parents] == [path]
    with pytest.raises(LoadFailed):
        unpack.unpack(tmp_path / "none.tar", target)


@pytest.mark.clause("TS-A1")
def test_tars_that_are_cut_or_too_much_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tgz(tmp_path / "m.tar.gz", *[(f"m/{n}", tarfile.DIRTYPE, "") for n in range(40)])
    assert describe(whole).archive.name == "noop"
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(BadArchive, match=r"cut\.tar\.gz"):
        describe(cut)
    monkeypatch.setattr("salver.dialects.torchserve.archive_files.honest_bytes", lambda packed: len(HANDLER))
    with pytest.raises(BadArchive, match=r"(more|larger), unpacked"):
        describe(tgz(tmp_path / "other.tar.gz"))


@pytest.mark.clause("TS-A1")
@given(st.data())
def test_tars_with_any_byte_changed_are_described_or_refused(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = tgz(Path(place, "m.tar.gz"))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(BadArchive):
            describe(path)


@pytest.mark.clause("TS-A1")
@given(st.data())
def test_zips_with_any_byte_changed_are_unpacked_or_refused(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = mar(Path(place, "m.mar"))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        (target := Path(place, "box", "target")).mkdir(parents=True)
        try:
            read_archive(path)
            unpack_archive(path, target)
        except SalverError:
            pass
        assert [p.name for p in Path(place, "box").iterdir()] == ["target"]


@pytest.mark.clause("TS-A1")
def test_unpacked_archives_are_shared_and_go_with_the_last_holder(tmp_path: Path) -> None:
    one, two = mar(tmp_path / "one.mar"), tmp_path / "two.mar"
    two.write_bytes(one.read_bytes())
    archives = UnpackedArchives(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    left = tmp_path / "cache" / "salver-handlers-999999999-x"
    left.mkdir()
    first, second = archives.hold(one), archives.hold(two)
    assert first.root == second.root
    assert stat.S_IMODE(first.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.folder.parent.stat().st_mode) == 0o700
    assert not left.exists()  # of a server that is no more
    archives.release(first)
    assert (second.root / "noop.py").exists()
    other = archives.hold(mar(tmp_path / "three.mar", {"noop.py": "other"}))
    assert other.root != second.root
    archives.release(second)
    assert not second.folder.exists()
    again = archives.hold(one)
    assert again.root.is_dir()
    archives.close()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.clause("TS-A1")
def test_what_cannot_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("../evil.py", "x")
    (cache := tmp_path / "cache").mkdir()
    archives = UnpackedArchives(cache)
    with pytest.raises(BadArchive):
        archives.hold(path)
    assert [file for file in cache.rglob("*") if file.is_file()] == []
    with pytest.raises(BadArchive, match="cannot be read"):
        archives.hold(tmp_path / "missing.mar")
    assert repr(archives) == "<UnpackedArchives, 0 unpacked>"
