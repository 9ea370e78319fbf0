"""Regions of shared memory: what callers do wrong with them, and that nothing is left open (TR-R14)."""

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.dialects.oip import shared_memory
from salver.dialects.oip.regions import Place, Region
from salver.dialects.oip.shared_memory import MAX_REGIONS, SharedMemory
from salver.words.errors import Conflict, InvalidInput, NotFound, SegmentFailed

PAGE = mmap.PAGESIZE


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    (tmp_path / "k").write_bytes(bytes(range(64)) + bytes(2 * PAGE - 64))
    return tmp_path


@pytest.fixture
def memory(segments: Path) -> Iterator[SharedMemory]:
    before = descriptors()
    memory = SharedMemory(segments)
    yield memory
    memory.unregister()
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_region_is_registered_listed_and_let_go(memory: SharedMemory) -> None:
    first, second = Region("r", "/k", 0, 64), Region("s", "k", PAGE, 8)
    memory.register(first)
    memory.register(second)
    assert memory.listed() == (first, second)
    assert memory.listed("s") == (second,)
    open_before = descriptors()
    memory.unregister("r")
    memory.unregister("r")  # TR-R14: one that there is not is no error
    assert descriptors() == open_before - 1
    assert memory.listed() == (second,)
    with pytest.raises(NotFound, match=r"^Unable to find system shared memory region: 'r'$"):
        memory.listed("r")
    memory.unregister()
    assert memory.listed() == ()


def test_bytes_are_those_of_the_region(memory: SharedMemory, segments: Path) -> None:
    memory.register(Region("r", "/k", 0, 64))
    memory.register(Region("s", "/k", PAGE, PAGE))
    assert memory.read(Place("r", 3, 4)) == bytes([3, 4, 5, 6])
    assert memory.read(Place("r", 0, 64)) == bytes(range(64))
    memory.write(Place("s", 8, 4), b"abc")
    assert (segments / "k").read_bytes()[PAGE + 7 : PAGE + 12] == b"\0abc\0"
    memory.write(Place("s", 8, 4), memoryview(b"wxyz"))
    assert memory.read(Place("s", 8, 4)) == b"wxyz"
    assert (segments / "k").stat().st_size == 2 * PAGE


def test_a_missing_segment_names_region_key_size_and_cause(memory: SharedMemory, segments: Path) -> None:
    with pytest.raises(SegmentFailed) as caught:
        memory.register(Region("r", "/nosuch", 0, 8))
    text = str(caught.value)
    assert text.startswith("Unable to open shared memory region: '/nosuch'. ")
    for part in ("'r'", "8 bytes", f"not in this server's {segments}", "--ipc=host", "emptyDir"):
        assert part in text


def test_a_segment_that_may_not_be_opened_says_why(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shared_memory.os, "open", forbidden)  # root may open everything
    with pytest.raises(SegmentFailed, match="user whom this server runs as"):
        memory.register(Region("r", "/k", 0, 8))


@pytest.mark.parametrize("key", ["", "/", "..", "/..", ".", "../k", "/a/b", "/a/../k", "k\0", "k" * 256])
def test_a_key_is_the_name_of_a_segment_and_no_path(memory: SharedMemory, key: str) -> None:
    with pytest.raises(InvalidInput, match="key of shared memory region 'r'"):
        memory.register(Region("r", key, 0, 8))
    assert memory.listed() == ()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_segment_is_not_opened(memory: SharedMemory, segments: Path, kind: str) -> None:
    if kind == "link":
        (segments / "other").symlink_to(segments / "k")
    elif kind == "pipe":
        os.mkfifo(segments / "other")
    else:
        (segments / "other").mkdir()
    with pytest.raises(SegmentFailed, match="Unable to open shared memory region: '/other'"):
        memory.register(Region("r", "/other", 0, 8))


@pytest.mark.clause("TR-R14")
@pytest.mark.parametrize(
    ("offset", "size", "cause"),
    [
        (0, 2 * PAGE + 1, f"its segment, which has {2 * PAGE} bytes"),
        (2 * PAGE, 1, f"its segment, which has {2 * PAGE} bytes"),
        (8, 8, f"a multiple of {PAGE}"),
        (0, 0, "byte_size must be"),
        (0, -1, "byte_size must be"),
        (-PAGE, 8, "byte_size must be"),
        (0, 1 << 63, "byte_size must be"),
        (1 << 63, 8, "byte_size must be"),
    ],
)
def test_a_region_that_is_not_inside_its_segment(
    memory: SharedMemory, offset: int, size: int, cause: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        memory.register(Region("r", "/k", offset, size))
    text = str(caught.value)
    assert text.startswith("failed to register shared memory region 'r': invalid args. ")
    assert f"key '/k', offset {offset}, {size} bytes" in text
    assert cause in text


def test_names_are_given_once_and_are_bounded(memory: SharedMemory) -> None:
    memory.register(Region("r", "/k", 0, 8))
    with pytest.raises(Conflict, match=r"^shared memory region 'r' already in manager$"):
        memory.register(Region("r", "/k", 0, 64))
    assert memory.listed("r")[0].byte_size == 8
    with pytest.raises(InvalidInput, match="'region name' is necessary"):
        memory.register(Region("", "/k", 0, 8))
    with pytest.raises(InvalidInput, match="at most 255 characters"):
        memory.register(Region("r" * 256, "/k", 0, 8))


@pytest.mark.clause("TR-R14")
@pytest.mark.parametrize("slash", ["", "/"])
def test_keys_of_tritons_python_backend_are_reserved(memory: SharedMemory, slash: str) -> None:
    key = f"{slash}triton_python_backend_shm_region_1"
    with pytest.raises(InvalidInput) as caught:
        memory.register(Region("r", key, 0, 8))
    assert str(caught.value) == (
        f"cannot register shared memory region 'r' with key '{key}' as the key contains the reserved prefix "
        "'triton_python_backend_shm_region_'"
    )


def test_regions_are_bounded_in_number(memory: SharedMemory) -> None:
    for number in range(MAX_REGIONS):
        memory.register(Region(f"r{number}", "/k", 0, 8))
    with pytest.raises(Conflict, match=f"^{MAX_REGIONS} shared memory regions are registered"):
        memory.register(Region("more", "/k", 0, 8))
    memory.unregister("r7")
    memory.register(Region("more", "/k", 0, 8))


@pytest.mark.clause("TR-R21")
@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("r", 64, 1), "Invalid offset for shared memory region: 'r'. It is 64; Region 'r'"),
        (Place("r", -1, 1), "Invalid offset for shared memory region: 'r'. "),
        (Place("r", 1 << 64, 1), "Invalid offset for shared memory region: 'r'. "),
        (Place("r", 60, 5), "Invalid offset + byte size for shared memory region: 'r'. They are 60 + 5; "),
        (Place("r", 0, -1), "Invalid offset + byte size for shared memory region: 'r'. "),
        (Place("r", 0, 1 << 64), "Invalid offset + byte size for shared memory region: 'r'. "),
    ],
)
def test_a_place_outside_its_region(memory: SharedMemory, place: Place, text: str) -> None:
    memory.register(Region("r", "/k", 0, 64))
    for use in (lambda: memory.read(place), lambda: memory.write(place, b""), lambda: memory.check((place,))):
        with pytest.raises(InvalidInput) as caught:
            use()
        assert str(caught.value).startswith(text)
        assert "key '/k', offset 0, 64 bytes" in str(caught.value)


def test_a_region_that_is_not_registered(memory: SharedMemory) -> None:
    place = Place("nosuch", 0, 8)
    for use in (lambda: memory.read(place), lambda: memory.write(place, b""), lambda: memory.check((place,))):
        with pytest.raises(NotFound, match=r"^Unable to find shared memory region: 'nosuch'$"):
            use()


@pytest.mark.parametrize("left", [0, 10, 63])
def test_a_segment_that_shrinks_gives_errors_and_does_not_grow_again(
    memory: SharedMemory, segments: Path, left: int
) -> None:
    memory.register(Region("r", "/k", 0, 64))
    os.truncate(segments / "k", left)
    place = Place("r", 0, 64)
    for use in (lambda: memory.read(place), lambda: memory.write(place, bytes(64))):
        with pytest.raises(InvalidInput) as caught:
            use()
        text = str(caught.value)
        assert "region 'r' is not whole any more" in text
        assert f"key '/k', offset 0, 64 bytes) is part of a segment that has {left} bytes now" in text
    assert (segments / "k").stat().st_size == left
    os.truncate(segments / "k", 64)
    assert memory.read(place) == bytes(range(left)) + bytes(64 - left)


def test_an_unlinked_segment_lives_on_while_it_is_registered(memory: SharedMemory, segments: Path) -> None:
    memory.register(Region("r", "/k", 0, 64))
    (segments / "k").unlink()
    assert memory.read(Place("r", 1, 1)) == b"\1"
    memory.write(Place("r", 1, 1), b"x")
    assert memory.read(Place("r", 0, 3)) == b"\0x\2"
    memory.unregister("r")
    with pytest.raises(SegmentFailed):
        memory.register(Region("r", "/k", 0, 64))


def test_outputs_must_not_overlap_whatever_their_regions_are_called(
    memory: SharedMemory, segments: Path
) -> None:
    (segments / "other").write_bytes(bytes(2 * PAGE))
    memory.register(Region("r", "/k", 0, PAGE + 8))
    memory.register(Region("s", "k", PAGE, 64))
    memory.register(Region("o", "/other", 0, 64))
    memory.check((Place("r", 0, 8), Place("r", 8, 8), Place("o", 0, 8), Place("s", 8, 8)))
    for second in (Place("s", 0, 4), Place("r", PAGE, 8), Place("r", PAGE + 7, 1)):
        with pytest.raises(InvalidInput, match="two outputs overlap in shared memory"):
            memory.check((second, Place("o", 0, 8), Place("s", 0, 8)))


def test_no_memory_left_for_the_pages_of_a_segment(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    memory.register(Region("r", "/k", 0, 64))
    monkeypatch.setattr(shared_memory.os, "pwrite", full)
    with pytest.raises(SegmentFailed, match=r"Unable to write to shared memory region: 'r'\..*No space left"):
        memory.write(Place("r", 0, 64), bytes(64))


def test_a_write_in_pieces(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    memory.register(Region("r", "/k", 0, 64))
    monkeypatch.setattr(shared_memory.os, "pwrite", lambda fd, raw, at: pwrite(fd, raw[:5], at))
    memory.write(Place("r", 2, 62), bytes(range(100, 162)))
    assert memory.read(Place("r", 2, 62)) == bytes(range(100, 162))
