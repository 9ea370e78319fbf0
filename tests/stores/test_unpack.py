"""Archives from outside: what is fine, and what would do harm (TR-A4)."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from salver.errors import LoadFailed
from salver.stores import unpack as unpacking
from salver.stores.unpack import unpack


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def other(name: str, kind: bytes, linkname: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info, b""


def packed(folder: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    path = folder / "env.tar.gz"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tr_a4_files_folders_and_links(mode: str, tmp_path: Path, target: Path) -> None:
    archive = packed(
        tmp_path,
        other("lib", tarfile.DIRTYPE),
        file("./lib/a.py", b"first", 0o4777),
        file("lib/b/c.py", b"second"),
        other("lib64", tarfile.SYMTYPE, "lib"),
        other("lib/b/up", tarfile.SYMTYPE, "../a.py"),
        other("hard", tarfile.LNKTYPE, "lib/a.py"),
        file("lib/b/c.py", b"third"),
        other("bin/python3", tarfile.SYMTYPE, "python"),
        other("bin/python", tarfile.SYMTYPE, str(Path("/usr/bin/python3"))),
        mode=mode,
    )
    if Path("/usr/bin/python3").exists():
        unpack(archive, target)
        assert (target / "bin" / "python3").exists()
    else:
        with pytest.raises(LoadFailed, match="leads out of it"):
            unpack(archive, target)
    assert (target / "lib64" / "a.py").read_bytes() == b"first"
    assert (target / "lib" / "a.py").stat().st_mode & 0o7777 == 0o700
    assert (target / "lib" / "b" / "up").read_bytes() == (target / "hard").read_bytes() == b"first"
    assert (target / "lib" / "b" / "c.py").read_bytes() == b"third"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([file("../out")], "'../out' lies outside"),
        ([file("a/../../out")], "lies outside"),
        ([file("/tmp/out")], "lies outside"),
        ([other("d", tarfile.SYMTYPE, ".."), file("d/out")], "leads out of it, to '..'"),
        ([other("d", tarfile.SYMTYPE, "/etc")], "leads out of it, to '/etc'"),
        ([other("bin/python", tarfile.SYMTYPE, "/etc/passwd")], "leads out of it"),
        ([other("bin/sh", tarfile.SYMTYPE, "/bin/sh")], "leads out of it"),
        (
            [file("a/b"), other("c", tarfile.SYMTYPE, "a"), file("c/d")],
            "'c/d' would be written through a link",
        ),
        ([other("h", tarfile.LNKTYPE, "../../outside")], "lies outside"),
        ([other("h", tarfile.LNKTYPE, "nothing")], "'h' is a link to 'nothing', which is no file"),
        (
            [other("s", tarfile.SYMTYPE, "a"), other("h", tarfile.LNKTYPE, "s")],
            "'h' is a link to 's', which is no file",
        ),
        ([other("null", tarfile.CHRTYPE)], "'null' is no file, folder or link"),
        ([other("pipe", tarfile.FIFOTYPE)], "'pipe' is no file, folder or link"),
    ],
)
def test_tr_a4_what_would_do_harm_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], text: str, tmp_path: Path, target: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    with pytest.raises(LoadFailed, match=text):
        unpack(packed(tmp_path, *members), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "env.tar.gz", "outside"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_BYTES", 10), ("MOST_MEMBERS", 2), ("room_in", lambda folder: 10)]
)
def test_tr_a4_what_is_too_much_is_refused(
    limit: str, value: object, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path, *(file(f"f{number}", bytes(5)) for number in range(3)))
    unpack(archive, target)
    monkeypatch.setattr(unpacking, limit, value)
    with pytest.raises(LoadFailed, match="is larger, unpacked, than there is room for"):
        unpack(archive, target)


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: b"no archive", lambda data: data[:-20]])
def test_tr_a4_what_is_no_archive_is_refused(
    spoil: Callable[[bytes], bytes], tmp_path: Path, target: Path
) -> None:
    archive = packed(tmp_path, file("a", bytes(range(256)) * 100))
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(LoadFailed, match="cannot be unpacked"):
        unpack(archive, target)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "gnu"])
def test_a_header_that_says_it_is_huge_is_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    """A few kilobytes would come to as much memory as they say."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 << 20
    archive = tmp_path / "m.tar.gz"
    archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(65 << 20), 1))
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match="no honest archive"):
        unpack(archive, tmp_path / "out", takes_links=False)


def test_a_path_without_end_is_refused(tmp_path: Path) -> None:
    """Python makes folders one within the other by calling itself."""
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("d/" * 2000 + "x"))
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match="has no end"):
        unpack(tmp_path / "m.tar", tmp_path / "out", takes_links=False)
