"""Layers of images from outside: what becomes files, and what would do harm."""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from salver.stores.sources import layers
from salver.stores.sources.layers import Layers
from salver.words.errors import LoadFailed, MissingExtra

ROOM = 1 << 30
Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x") -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def other(name: str, kind: bytes, linkname: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info, b""


def layer(path: Path, *members: Member, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def put(
    folder: Path, *some: tuple[Member, ...], prefix: str = "models", most: int = ROOM
) -> dict[str, bytes]:
    """What the layers come to: content by path."""
    out = folder / "out"
    out.mkdir()
    all = Layers(out, most, prefix)
    for number, members in enumerate(some):
        all.add(layer(folder / f"{number}.tar", *members), f"layer {number + 1}")
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_files_below_the_prefix_are_taken_and_nothing_else(tmp_path: Path) -> None:
    members = (
        other("models", tarfile.DIRTYPE),
        file("models/model.onnx", b"weights"),
        file("./models/labels.txt", b"a"),
        file("/models/deep/er/file", b"b"),
        file("etc/passwd"),
        other("bin", tarfile.SYMTYPE, "/usr/bin"),
        other("dev/null", tarfile.CHRTYPE),
        file("modelsx"),
        file("usr/lib/system-systemd\\x2dcryptsetup.slice"),
        file("usr/odd\udcff\n"),
        file("../x"),
    )
    assert put(tmp_path, members) == {"model.onnx": b"weights", "labels.txt": b"a", "deep/er/file": b"b"}


def test_a_folder_that_is_there_keeps_what_is_in_it(tmp_path: Path) -> None:
    lower = (file("models/d/_", b"1"), file("models/_", b"1"))
    upper = (other("models", tarfile.DIRTYPE), other("models/d", tarfile.DIRTYPE))
    assert put(tmp_path, lower, upper) == {"d/_": b"1", "_": b"1"}


def test_a_second_name_of_a_file_becomes_a_file(tmp_path: Path) -> None:
    members = (file("models/a", b"1"), other("models/b", tarfile.LNKTYPE, "models/a"))
    assert put(tmp_path, members) == {"a": b"1", "b": b"1"}


def test_to_write_a_file_anew_leaves_its_second_name_as_it_was(tmp_path: Path) -> None:
    lower = (file("models/a", b"1"), other("models/b", tarfile.LNKTYPE, "models/a"))
    assert put(tmp_path, lower, (file("models/a", b"2"),)) == {"a": b"2", "b": b"1"}


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ((file("models/d/b", b"2"),), {"a": b"1", "d/b": b"2", "d/c": b"1"}),
        ((file("models/.wh.a"),), {"d/b": b"1", "d/c": b"1"}),
        ((file("models/.wh.d"),), {"a": b"1"}),
        ((file("models/d/.wh.b"),), {"a": b"1", "d/c": b"1"}),
        ((file("models/d/.wh..wh..opq"),), {"a": b"1"}),
        ((file("models/d/new"), file("models/d/.wh..wh..opq")), {"a": b"1", "d/new": b"x"}),
        ((file("models/d/.wh..wh..opq"), file("models/d/b", b"2")), {"a": b"1", "d/b": b"2"}),
        ((file(".wh.models"),), {}),
        ((file("models/new"), file(".wh.models")), {"new": b"x"}),
        ((file(".wh..wh..opq"), file("models/d/b", b"2")), {"d/b": b"2"}),
        ((file(".wh.other"), file("x/.wh.models")), None),
        ((file("models/d/_", b"2"),), {"a": b"1", "d/_": b"2", "d/b": b"1", "d/c": b"1"}),
        ((file("models/d", b"2"),), {"a": b"1", "d": b"2"}),
        ((file("models/a/b", b"2"),), {"a/b": b"2", "d/b": b"1", "d/c": b"1"}),
        ((file("models/.wh.none"), file("models/none/.wh.d"), file("models/no/.wh..wh..opq")), None),
    ],
    ids=[
        "over",
        "gone",
        "folder-gone",
        "below",
        "opaque",
        "new-first",
        "new-after",
        "all",
        "all-but",
        "all-opaque",
        "not-all",
        "line",
        "file",
        "folder",
        "none",
    ],
)
def test_later_layers_replace_and_remove(
    tmp_path: Path, upper: tuple[Member, ...], left: dict[str, bytes] | None
) -> None:
    lower = (file("models/a", b"1"), file("models/d/b", b"1"), file("models/d/c", b"1"))
    unchanged = {"a": b"1", "d/b": b"1", "d/c": b"1"}
    assert put(tmp_path, lower, upper) == (unchanged if left is None else left)


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "remove"]), NAMES), min_size=1, max_size=4, unique_by=lambda s: s[1]
)


@given(st.lists(STEPS, min_size=1, max_size=5))
def test_layers_come_to_what_a_dictionary_comes_to(some: list[list[tuple[str, str]]]) -> None:
    import tempfile

    wanted: dict[str, bytes] = {}
    members = []
    for number, steps in enumerate(some):
        mine = []
        for what, name in steps:
            if what == "write":
                wanted[name] = bytes([number])
                mine.append(file(f"models/{name}", bytes([number])))
            else:
                wanted.pop(name, None)
                folder, _, last = name.rpartition("/")
                mine.append(file(f"models/{folder}/.wh.{last}"))
        members.append(tuple(mine))
    with tempfile.TemporaryDirectory() as folder:
        assert put(Path(folder), *members) == wanted


def huge_header() -> bytes:
    """A header of names that says it is a gibibyte."""
    info = tarfile.TarInfo("models/x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    return info.tobuf()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((file("models/../../x"),), "is outside"),
        ((file("/models/../x"),), "is outside"),
        ((file("models/a\\b"),), "is outside"),
        ((file("models/a\nb"),), "is outside"),
        ((other("models/x", tarfile.SYMTYPE, "/etc/passwd"),), "is a link"),
        ((other("models/x", tarfile.SYMTYPE, "y"),), "is a link"),
        ((other("models", tarfile.SYMTYPE, "/tmp"),), "is a link"),
        ((other("models/x", tarfile.LNKTYPE, "etc/passwd"),), "which is not a file"),
        ((other("models/x", tarfile.LNKTYPE, "../etc/passwd"),), "which is not a file"),
        ((other("models/x", tarfile.LNKTYPE, "models/x"),), "which is not a file"),
        ((other("models/x", tarfile.CHRTYPE),), "no file or folder"),
        ((other("models/x", tarfile.FIFOTYPE),), "no file or folder"),
        ((file("models"),), "no file or folder"),
        ((file("models/.wh."),), "removes nothing"),
        ((file("models/.wh.."),), "removes nothing"),
        ((file("models/.wh..."),), "removes nothing"),
    ],
    ids=[
        "up",
        "out",
        "backslash",
        "newline",
        "link",
        "link-inside",
        "link-itself",
        "hard-out",
        "hard-up",
        "hard-self",
        "device",
        "pipe",
        "root",
        "white",
        "white-dot",
        "white-up",
    ],
)
def test_what_would_do_harm_is_refused(tmp_path: Path, members: tuple[Member, ...], words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        put(tmp_path, members)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "0.tar"}


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="larger"):
        put(tmp_path, (file("models/zeros", bytes(3 << 20)),), most=2 << 20)
    assert not (tmp_path / "out" / "zeros").exists() or (tmp_path / "out" / "zeros").stat().st_size <= 2 << 20


def test_a_bomb_beside_what_is_taken_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="larger"):
        put(tmp_path, (file("usr/zeros", bytes(3 << 20)), file("models/a")), most=2 << 20)


def test_a_layer_may_be_compressed_by_zstd(tmp_path: Path) -> None:
    plain = layer(tmp_path / "plain", file("models/a", b"x" * 70_000), file("models/b", b"y"), mode="w:")
    (tmp_path / "l").write_bytes(zstd.compress(plain.read_bytes()))
    (tmp_path / "out").mkdir()
    Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")
    assert [(tmp_path / "out" / name).read_bytes() for name in "ab"] == [b"x" * 70_000, b"y"]


def test_a_bomb_of_zstd_is_refused(tmp_path: Path) -> None:
    plain = layer(tmp_path / "plain", file("models/zeros", bytes(3 << 20)), mode="w:")
    (tmp_path / "l").write_bytes(zstd.compress(plain.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match="larger"):
        Layers(tmp_path / "out", 2 << 20, "models").add(tmp_path / "l", "layer 1")


def test_without_its_package_zstd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "l").write_bytes(zstd.compress(b"x"))
    (tmp_path / "out").mkdir()
    with pytest.raises(MissingExtra, match=r"salver\[registry\]"):
        Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")


def test_all_layers_share_the_room(tmp_path: Path) -> None:
    some = [(file(f"models/{number}", bytes(1 << 20)),) for number in range(3)]
    with pytest.raises(LoadFailed, match=r"layer 2 .*larger"):
        put(tmp_path, *some, most=(2 << 20) - 1)


def test_a_sparse_member_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    info, _ = other("models/x", tarfile.GNUTYPE_SPARSE)
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[386:398] = b"00000000000\0"
    raw[483:495] = b"77777777777\0"  # its real size: 8 GiB
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw[:512]):06o}\0 ".encode()
    (tmp_path / "l").write_bytes(bytes(raw) + bytes(1024))
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match="no file or folder"):
        Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")


@pytest.mark.parametrize("packs", [bytes, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (huge_header() + bytes(1024), "no honest archive|cannot be unpacked"),
        (b"not a tar file at all" * 100, "cannot be unpacked"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "cannot be unpacked"),
    ],
    ids=["header", "text", "broken"],
)
def test_what_is_no_tar_file_is_refused(tmp_path: Path, packs: type, content: bytes, words: str) -> None:
    (tmp_path / "l").write_bytes(packs(content))
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match=words):
        Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")


def test_one_that_ends_too_soon_is_refused(tmp_path: Path) -> None:
    whole = layer(tmp_path / "whole", file("models/a", b"x" * 5000), mode="w:").read_bytes()
    (tmp_path / "l").write_bytes(whole[:2000])
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed, match=r"ends too soon|unexpected end|cannot be unpacked"):
        Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")


@pytest.mark.parametrize("length", [1, 511, 512, 5000])
def test_one_may_end_with_its_last_content(tmp_path: Path, length: int) -> None:
    whole = layer(
        tmp_path / "whole", file("models/a"), file("models/b", b"x" * length), mode="w:"
    ).read_bytes()
    (tmp_path / "l").write_bytes(gzip.compress(whole[: 3 * 512 + length]))
    (tmp_path / "out").mkdir()
    Layers(tmp_path / "out", ROOM, "models").add(tmp_path / "l", "layer 1")
    assert (tmp_path / "out" / "b").read_bytes() == b"x" * length


def test_members_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MOST_MEMBERS", 3)
    with pytest.raises(LoadFailed, match="more than 3 members"):
        put(tmp_path, (file("a"), file("b")), (file("c"), file("d")))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", "a\\b", "x" * 300, "d/" * 600])
def test_a_file_is_moved_to_no_path_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadFailed):
        Layers(tmp_path / "out", ROOM).add_file(tmp_path / "blob", name, "layer 1")
    assert (tmp_path / "blob").exists()


def test_a_member_whose_path_has_no_end_is_refused(tmp_path: Path) -> None:
    """It could be neither listed nor removed by calls that call themselves."""
    with pytest.raises(LoadFailed, match="has no end"):
        put(tmp_path, (file("models/" + "d/" * 1500 + "x"),))
    assert list((tmp_path / "out").iterdir()) == []
