"""Archives from outside: what is fine, and what would do harm (TR-A4)."""

import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.stores import unpack as unpacking
from salver.stores.tars import _Xz
from salver.stores.unpack import unpack
from salver.stores.unzip import check as check_zip
from salver.stores.unzip import read_member, unzip
from salver.words.errors import BadArchive, LoadFailed


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


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_folders_and_links(mode: str, tmp_path: Path, target: Path) -> None:
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


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([file("../out")], "'../out' is outside"),
        ([file("a/../../out")], "is outside"),
        ([file("/tmp/out")], "is outside"),
        ([other("d", tarfile.SYMTYPE, ".."), file("d/out")], "leads out of it, to '..'"),
        ([other("d", tarfile.SYMTYPE, "/etc")], "leads out of it, to '/etc'"),
        ([other("bin/python", tarfile.SYMTYPE, "/etc/passwd")], "leads out of it"),
        ([other("bin/sh", tarfile.SYMTYPE, "/bin/sh")], "leads out of it"),
        (
            [file("a/b"), other("c", tarfile.SYMTYPE, "a"), file("c/d")],
            "'c/d' would be written through a link",
        ),
        ([other("h", tarfile.LNKTYPE, "../../outside")], "is outside"),
        ([other("h", tarfile.LNKTYPE, "nothing")], "'h' is a link to 'nothing', which is not a file"),
        (
            [other("s", tarfile.SYMTYPE, "a"), other("h", tarfile.LNKTYPE, "s")],
            "'h' is a link to 's', which is not a file",
        ),
        ([other("null", tarfile.CHRTYPE)], "'null' is not a file, folder or link"),
        ([other("pipe", tarfile.FIFOTYPE)], "'pipe' is not a file, folder or link"),
    ],
)
def test_what_would_do_harm_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], text: str, tmp_path: Path, target: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    with pytest.raises(LoadFailed, match=text):
        unpack(packed(tmp_path, *members), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "env.tar.gz", "outside"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_BYTES", 10), ("MOST_MEMBERS", 2), ("room_in", lambda folder: 10)]
)
def test_what_is_too_much_is_refused(
    limit: str, value: object, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path, *(file(f"f{number}", bytes(5)) for number in range(3)))
    unpack(archive, target)
    monkeypatch.setattr(unpacking, limit, value)
    with pytest.raises(LoadFailed, match="is larger, unpacked, than there is room for"):
        unpack(archive, target)


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: b"no archive", lambda data: data[:-20]])
def test_what_is_no_archive_is_refused(spoil: Callable[[bytes], bytes], tmp_path: Path, target: Path) -> None:
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
    with pytest.raises(LoadFailed, match="too long"):
        unpack(tmp_path / "m.tar", tmp_path / "out", takes_links=False)


def xz_block(tar: bytes, window: int) -> bytes:
    """A tar file packed by xz that says how much of it has to be kept, as in the format: 40 = 4 GiB."""
    packed = bytearray(lzma.compress(tar, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    end = 12 + 4 * (packed[12] + 1)  # of the block's header, behind the stream's
    packed[packed.index(b"\x21\x01", 12) + 2] = window
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    return bytes(packed)


def zstd_frame(tar: bytes, window: int) -> bytes:
    """The same by zstd, in one block as it is; so many bits count the bytes of its window."""
    return b"".join(
        (b"\x28\xb5\x2f\xfd\0", bytes([(window - 10) << 3]), (len(tar) << 3 | 1).to_bytes(3, "little"), tar)
    )


@pytest.mark.parametrize(
    ("pack", "most", "too_much"), [(xz_block, 28, 40), (xz_block, 28, 31), (zstd_frame, 27, 28)]
)
def test_how_much_memory_an_archive_takes_is_not_for_it_to_say(
    pack: Callable[[bytes, int], bytes], most: int, too_much: int, tmp_path: Path, target: Path
) -> None:
    tar = packed(tmp_path, file("a", b"x" * 1000), mode="w").read_bytes()
    archive = tmp_path / "m.tar.x"
    archive.write_bytes(pack(tar, most))
    unpack(archive, target)
    assert (target / "a").read_bytes() == b"x" * 1000
    archive.write_bytes(pack(tar, too_much))
    with pytest.raises(LoadFailed, match="takes more than 128 MiB of memory to be unpacked"):
        unpack(archive, target)


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_xz_is_read_as_pythons_own_reads_it(parts: list[bytes], pads: int, data: st.DataObject) -> None:
    """Streams behind one another, with what pads them, from wherever one looks."""
    raw = (bytes(4 * pads)).join(map(lzma.compress, parts)) + bytes(4 * pads)
    whole = b"".join(parts)
    opened = _Xz(io.BytesIO(raw))
    for _ in range(4):
        at, size = data.draw(st.integers(0, len(whole) + 5)), data.draw(st.integers(0, 2000))
        opened.seek(at, os.SEEK_SET)
        assert opened.tell() == min(at, len(whole))
        assert opened.read(size) == whole[at : at + size]
    with pytest.raises((EOFError, lzma.LZMAError)):
        cut = _Xz(io.BytesIO(lzma.compress(whole)[:-1]))
        cut.read(len(whole) + 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_members_are_unpacked_whole_in_memory_is_refused(
    method: int, tmp_path: Path, target: Path
) -> None:
    """1 KiB of bzip2 may be as many gigabytes as somebody wants, whatever the directory says of it."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w", method) as archive:
        archive.writestr("model.onnx", bytes(1 << 20))
    for look in (
        check_zip,
        lambda path: unzip(path, target),
        lambda path: read_member(path, "model.onnx", 9),
    ):
        with pytest.raises(
            (LoadFailed, BadArchive), match=r"'model.onnx' is packed by (bzip2|lzma), and not"
        ):
            look(tmp_path / "m.zip")
