"""Copies of a registry's files in another place: whole, limited, and going on after an interruption."""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import ANN, found, open_registry

from salver.cli import main
from salver.features.registry import rows
from salver.features.registry.artifacts import Artifacts
from salver.features.registry.records import FileEntry, NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.replicating import Bandwidth, Copied, copy_versions
from salver.words.errors import Conflict

MIB = 1 << 20
FILES = {"model.onnx": b"w" * (3 * MIB + 5), "labels/a.txt": b"cat", "empty": b""}
Versions = Mapping[tuple[str, int], tuple[FileEntry, ...]]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ModelRegistry]:
    registry = await open_registry("sqlite", tmp_path / "here")
    async with registry.ledger:
        yield registry


@given(
    st.integers(1 << 10, 1 << 30),
    st.lists(st.tuples(st.integers(1, MIB), st.floats(0, 5)), min_size=1, max_size=40),
)
def test_no_window_has_more_than_the_rate_and_a_burst(rate: int, reads: list[tuple[int, float]]) -> None:
    """Each read comes after a pause of its own; what is late is not caught up beyond the burst."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Bandwidth(rate, lambda: int(now * 1e9), sleep)
    times = [0.0]
    for size, pause in reads:
        sleep(pause)
        pace(size)
        times.append(now)
    whole = [0, *accumulate(size for size, _ in reads)]
    for first in range(len(times)):
        for last in range(first + 1, len(times)):
            seconds = times[last] - times[first]
            assert whole[last] - whole[first] <= rate * seconds * 1.001 + MIB + 1024


@pytest.mark.parametrize(("rate", "seconds"), [(10 * MIB, 9.9), (1 * MIB, 99.0), (1 << 10, 101376.0)])
def test_the_rate_is_reached(rate: int, seconds: float) -> None:
    waited: list[float] = []
    pace = Bandwidth(rate, lambda: int(sum(waited) * 1e9), waited.append)
    for _ in range(100):
        pace(MIB)
    assert sum(waited) == pytest.approx(seconds, rel=1e-4)


async def pushed(registry: ModelRegistry, folder: Path, **files: bytes) -> Versions:
    await registry.push(NewVersion("fraud"), found(folder, files or FILES), ANN)
    return await registry.ledger.read(rows.files)


def content(artifacts: Artifacts, number: int = 1) -> dict[str, bytes]:
    home = artifacts.path_of("fraud", number)
    return {name: (home / name).read_bytes() for name in artifacts.names("fraud", number)}


class Cut(Exception):
    """The copy is killed."""


def killed_after(pieces: int) -> Callable[[int], None]:
    left = iter(range(pieces))

    def pace(size: int) -> None:
        if next(left, None) is None:
            raise Cut

    return pace


async def test_what_is_missing_is_copied(registry: ModelRegistry, tmp_path: Path) -> None:
    target = Artifacts(tmp_path / "there")
    versions = await pushed(registry, tmp_path / "one")
    size = sum(map(len, FILES.values()))
    assert copy_versions(registry.artifacts, target, versions) == [Copied("fraud", 1, size)]
    assert content(target) == FILES
    assert [path.name for path in target.folder.glob("incoming/*")] == []
    versions = await pushed(registry, tmp_path / "two", a=b"1")
    assert copy_versions(registry.artifacts, target, versions) == [Copied("fraud", 2, 1)]
    assert copy_versions(registry.artifacts, target, versions) == []
    assert target.entries("fraud", 2) == versions["fraud", 2]


async def test_an_interrupted_copy_goes_on(registry: ModelRegistry, tmp_path: Path) -> None:
    target = Artifacts(tmp_path / "there")
    versions = await pushed(registry, tmp_path / "new")
    with pytest.raises(Cut):
        copy_versions(registry.artifacts, target, versions, killed_after(3))  # labels, two MiB
    assert content(target) == {}
    read: list[int] = []
    copy_versions(registry.artifacts, target, versions, read.append)
    assert content(target) == FILES
    assert read == [MIB, 5]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_bytes(b"dog"), "labels/a.txt of fraud/1 differs from what was pushed"),
        (Path.unlink, "a.txt: No such file or directory"),
    ],
)
async def test_a_damaged_file_stops_its_version_alone(
    registry: ModelRegistry, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    target = Artifacts(tmp_path / "there")
    await pushed(registry, tmp_path / "one")
    versions = await pushed(registry, tmp_path / "two", a=b"1")
    file = registry.artifacts.path_of("fraud", 1) / "labels" / "a.txt"
    file.chmod(0o644)
    damage(file)
    first, second = copy_versions(registry.artifacts, target, versions)
    assert problem in first.problem and not second.problem
    assert content(target) == {} and content(target, 2) == {"a": b"1"}
    file.write_bytes(b"cat")
    (again,) = copy_versions(registry.artifacts, target, versions)
    assert not again.problem and content(target) == FILES


async def test_one_copy_at_a_time(registry: ModelRegistry, tmp_path: Path) -> None:
    target = Artifacts(tmp_path)
    with (tmp_path / "copy.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another copy to"):
            copy_versions(registry.artifacts, target, {})


async def test_the_command_says_what_it_copied(
    registry: ModelRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await pushed(registry, tmp_path / "one", a=b"1")
    await pushed(registry, tmp_path / "two", b=b"2")
    (registry.artifacts.path_of("fraud", 2) / "b").unlink()

    def copy(*options: str) -> tuple[int, list[str], str]:
        words = ["registry", "copy", str(tmp_path / "there"), "--registry", str(tmp_path / "here"), *options]
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    status, lines, _ = await asyncio.to_thread(copy, "--bandwidth", "1MB")
    assert (status, lines[1].split()) == (1, ["fraud/1", "1", "copied"])
    assert lines[2].startswith("fraud/2") and "No such file" in lines[2]
    status, _, error = await asyncio.to_thread(copy, "--bandwidth", "fast")
    assert status == 1 and "'fast' is no rate from 1KB to 64GB" in error
