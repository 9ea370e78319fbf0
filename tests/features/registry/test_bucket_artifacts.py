"""A registry whose files lie in an object store: a real S3 server of this process, without a common disk."""

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from registries import ANN, Clock, counted, found
from s3 import KEYS, S3, s3_server

from salver.features.backup.creating import Source, create
from salver.features.backup.folder import BackupFolder
from salver.features.backup.manifest import StartCommand
from salver.features.backup.restoring import Restore
from salver.features.registry import compression, rows
from salver.features.registry import opening as opening_room
from salver.features.registry.artifacts import ArtifactsFailed
from salver.features.registry.compression import Measurement
from salver.features.registry.names import parse
from salver.features.registry.opening import home_of
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.replicating import Copied, copy_versions
from salver.words.errors import Conflict, InvalidInput, NotFound

FILES = {"model.onnx": b"weights" * 1000, "labels/a.txt": b"cat\ndog", "empty": b""}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


async def opened(folder: Path, url: str) -> ModelRegistry:
    home = home_of(str(folder), url)
    return await opening_room.open_registry(home, Clock(), counted().__next__, makes=True)


@pytest.fixture
async def registry(s3: S3, tmp_path: Path) -> AsyncIterator[ModelRegistry]:
    bucket = f"b{time.time_ns()}"
    s3.put(bucket, {"other/file": b"not ours"})
    registry = await opened(tmp_path / "ledger", s3.url(f"{bucket}/some/place"))
    yield registry
    await registry.ledger.close()


async def push(registry: ModelRegistry, folder: Path, model: str = "fraud", **files: bytes) -> int:
    what = found(folder / "new", files or FILES)
    return (await registry.push(NewVersion(model), what, ANN)).number


def keys(registry: ModelRegistry, s3: S3) -> list[str]:
    bucket = registry.artifacts._address.root.partition("/")[0]  # type: ignore[attr-defined]
    return [found["Key"] for found in s3.client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


async def test_a_version_goes_there_and_comes_back_whole(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    version = await registry.version(parse(f"fraud/{await push(registry, tmp_path)}"))
    home = "some/place/models/fraud/1"
    assert keys(registry, s3) == ["other/file", f"{home}/empty", f"{home}/labels/a.txt", f"{home}/model.onnx"]
    assert files_of(registry.artifacts.folder) == []  # nothing stays with whoever pushes
    assert await registry.verify() == ()
    await asyncio.to_thread(registry.artifacts.bring, "fraud", 1, version.files)
    local = registry.artifacts.path_of("fraud", 1)
    assert {name: (local / name).read_bytes() for name in files_of(local)} == FILES
    assert {(local / name).stat().st_mode & 0o777 for name in FILES} == {0o444}
    assert registry.artifacts.brought() == {("fraud", 1)}
    await asyncio.to_thread(registry.artifacts.forget, "fraud", 1)
    assert files_of(registry.artifacts.folder) == []


async def compressed(registry: ModelRegistry, s3: S3, folder: Path, ratio: float = 0.1) -> bytes:
    """Push a file whose measurement is as given; return its content."""
    content = np.random.default_rng(0).integers(0, 4, 6 << 20, np.uint8).tobytes()  # of two pieces, packed
    registry.artifacts.compress()
    with pytest.MonkeyPatch.context() as patch:
        measured = Measurement(ratio, read_s=1.0, unpack_s=0.5)
        patch.setattr(compression, "measure", lambda fetch, size: measured)
        patch.setattr(compression, "_PIECE", 1 << 20)
        await push(registry, folder, **{"model.onnx": content, "labels": b"cat"})
    return content


async def test_what_is_fetched_faster_is_compressed(
    registry: ModelRegistry, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "_PIECE", 1 << 20)
    content = await compressed(registry, s3, tmp_path)
    home = "some/place/models/fraud/1"
    assert keys(registry, s3) == ["other/file", f"{home}/.zst/model.onnx", f"{home}/labels"]
    assert registry.artifacts.notices == [
        "model.onnx is stored compressed: it takes 10% of the bytes, and a fetch 50% of the time"
    ]
    version = await registry.version(parse("fraud/1"))
    assert {file.path: file.size for file in version.files} == {"labels": 3, "model.onnx": len(content)}
    assert await registry.verify() == ()
    await asyncio.to_thread(registry.artifacts.bring, "fraud", 1, version.files)
    assert (registry.artifacts.path_of("fraud", 1) / "model.onnx").read_bytes() == content
    with registry.artifacts.open("fraud", 1, "model.onnx") as file:
        assert file.read(9) == content[:9]


async def test_what_is_not_fetched_faster_stays_as_it_is(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await compressed(registry, s3, tmp_path, ratio=0.95)
    assert keys(registry, s3)[1:] == [
        f"some/place/models/fraud/1/{name}" for name in ("labels", "model.onnx")
    ]
    assert registry.artifacts.notices == [
        "model.onnx is stored as it is: compressed, it takes 95% of the bytes, and a fetch 95% of the time"
    ]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda packed, content: packed[: len(packed) // 2], "ended before|too soon"),
        (lambda packed, content: b"no zstd" * 9, "EOFError"),
        (lambda packed, content: zstd.compress(content + bytes(1 << 26)), ""),  # the rest is never unpacked
        (lambda packed, content: zstd.compress(bytes(1 << 26)), "differs from what was pushed"),
    ],
    ids=["truncated", "other", "longer", "bomb"],
)
async def test_a_damaged_compressed_file_is_refused(
    damage: Callable[[bytes, bytes], bytes], problem: str, registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    content = await compressed(registry, s3, tmp_path)
    files = (await registry.version(parse("fraud/1"))).files
    bucket = registry.artifacts._address.root.partition("/")[0]  # type: ignore[attr-defined]
    key = "some/place/models/fraud/1/.zst/model.onnx"
    packed = s3.client.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put(bucket, {key: damage(packed, content)})
    if not problem:
        await asyncio.to_thread(registry.artifacts.bring, "fraud", 1, files)
        assert (registry.artifacts.path_of("fraud", 1) / "model.onnx").read_bytes() == content
        return
    with pytest.raises(ArtifactsFailed, match=problem):
        await asyncio.to_thread(registry.artifacts.bring, "fraud", 1, files)
    assert files_of(registry.artifacts.folder) == []
    assert [fault.path for fault in await registry.verify()] == ["model.onnx"]


def test_a_sample_is_read_compressed_and_unpacked() -> None:
    content = bytes(1 << 20)
    measured = compression.measure(lambda start, end: content[start:end], len(content))
    assert measured.ratio < 0.01
    assert measured.read_s > 0
    assert measured.unpack_s > 0


async def test_what_a_killed_server_had_half_of_goes(registry: ModelRegistry) -> None:
    old, young = (registry.artifacts.aside(name) for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    for path in (old / "model.onnx", old):
        os.utime(path, (1000, 1000))
    assert registry.artifacts.brought() == frozenset()
    assert (old.exists(), young.exists()) == (False, True)


async def test_what_was_brought_is_not_brought_again_unless_it_is_damaged(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    files = (await registry.version(parse("fraud/1"))).files
    bring, local = registry.artifacts.bring, registry.artifacts.path_of("fraud", 1) / "model.onnx"
    await asyncio.to_thread(bring, "fraud", 1, files)
    before = local.stat().st_ino
    await asyncio.to_thread(bring, "fraud", 1, files)
    assert local.stat().st_ino == before
    local.chmod(0o644)
    local.write_bytes(b"flipped")
    await asyncio.to_thread(bring, "fraud", 1, files)
    assert local.read_bytes() == FILES["model.onnx"]


async def test_what_is_not_as_it_was_pushed_is_told_and_never_brought(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    files = (await registry.version(parse("fraud/1"))).files
    bucket = registry.artifacts._address.root.partition("/")[0]  # type: ignore[attr-defined]
    s3.put(bucket, {"some/place/models/fraud/1/model.onnx": b"x" * 7000})
    s3.remove(bucket, "some/place/models/fraud/1/empty")
    faults = await registry.verify()
    assert [(fault.path, fault.problem) for fault in faults] == [
        ("empty", "missing"),
        ("model.onnx", "changed"),
    ]
    for problem in ("FileNotFound|NoSuchKey", "differs from what was pushed"):
        with pytest.raises(ArtifactsFailed, match=problem):
            await asyncio.to_thread(registry.artifacts.bring, "fraud", 1, files)
        assert files_of(registry.artifacts.folder) == []
        s3.put(bucket, {"some/place/models/fraud/1/empty": b""})
    with pytest.raises(ArtifactsFailed, match="nothing was backed up"):
        await backed_up(registry, tmp_path)


async def test_removal_and_sweeping(registry: ModelRegistry, s3: S3, tmp_path: Path) -> None:
    await push(registry, tmp_path)
    await push(registry, tmp_path)
    await registry.remove("fraud", 1, ANN)
    assert not [key for key in keys(registry, s3) if "/fraud/1/" in key]
    with pytest.raises(NotFound):
        await registry.version(parse("fraud/1"))
    bucket = registry.artifacts._address.root.partition("/")[0]  # type: ignore[attr-defined]
    s3.put(bucket, {"some/place/models/fraud/77/model.onnx": b"of a push that was killed"})
    assert [(f.number, f.problem) for f in await registry.verify()] == [(77, "no such version")]
    assert await registry.sweep(10 * 365 * 86_400.0) == ()  # it is young
    with pytest.raises(Conflict, match="running pushes"):
        await registry.sweep(86_399.0)
    registry._clock = lambda: time.time() + 86_460  # type: ignore[method-assign]
    assert await registry.sweep() == ("models/fraud/77",)
    assert await registry.verify() == ()
    assert "other/file" in keys(registry, s3)


async def test_a_push_that_fails_half_way_leaves_nothing_there(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    before = keys(registry, s3)
    artifacts = registry.artifacts
    files = artifacts._open_files()  # type: ignore[attr-defined]
    put_file = files.put_file

    def put(path: str, key: str) -> None:
        if key.endswith("model.onnx"):  # the last one
            raise ConnectionResetError("the network is gone")
        put_file(path, key)

    files.put_file = put
    artifacts._opened, artifacts._open_files = files, lambda: files  # type: ignore[attr-defined]
    with pytest.raises(ArtifactsFailed, match="the network is gone"):
        await push(registry, tmp_path)
    assert keys(registry, s3) == before
    assert await registry.verify() == ()
    assert files_of(artifacts.folder) == []


async def test_a_bucket_that_fails_while_a_backup_reads_it_is_told_as_such(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    class NoOSError(Exception):
        """As those of the clouds' own libraries are."""

    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise NoOSError("the network is gone")

    await push(registry, tmp_path)
    artifacts = registry.artifacts
    files = artifacts._open_files()  # type: ignore[attr-defined]
    files.open = lambda key, mode: Cut()
    artifacts._opened, artifacts._open_files = files, lambda: files  # type: ignore[attr-defined]
    with pytest.raises(ArtifactsFailed, match=r"s3://.*/fraud/1/.*NoOSError: the network is gone"):
        await backed_up(registry, tmp_path)


async def test_two_registries_do_not_write_over_one_another(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    other = await opened(tmp_path / "other", registry.artifacts._address.url)  # type: ignore[attr-defined]
    with pytest.raises(ArtifactsFailed, match="already exists"):
        await push(other, tmp_path, **{"model.onnx": b"other"})
    assert await other.models() == ()
    assert await registry.verify() == ()
    await other.ledger.close()


async def test_a_backup_goes_from_a_bucket_to_a_disk_and_back(
    registry: ModelRegistry, s3: S3, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    backups = await backed_up(registry, tmp_path)
    (id,) = backups.ids()
    for folder, bucket in ((tmp_path / "disk", ""), (tmp_path / "back", f"b{time.time_ns()}")):
        if bucket:
            s3.put(bucket, {})
        home = home_of(str(folder), bucket and s3.url(bucket))
        restored = await Restore(backups, backups.read(id), home, id="aside").run()
        assert restored.versions == 1
        back = await opened(folder, home.bucket)
        assert await back.verify() == ()
        await back.ledger.close()
        with pytest.raises(Conflict):
            await Restore(backups, backups.read(id), home, id="aside").run()


async def backed_up(registry: ModelRegistry, folder: Path) -> BackupFolder:
    backups = BackupFolder(folder / "backups")
    await create(backups, Source(StartCommand("/srv")), registry, 5.0)
    return backups


async def test_who_may_not_write_there_is_told(s3: S3, tmp_path: Path) -> None:
    nowhere = await opened(tmp_path / "ledger", s3.url("no-such-bucket/x"))
    with pytest.raises(ArtifactsFailed, match="this user may read and write it"):
        await push(nowhere, tmp_path)
    assert await nowhere.models() == ()
    await nowhere.ledger.close()


@pytest.mark.parametrize(
    ("registry", "artifacts", "problem"),
    [
        ("s3://bucket/x", "", "--registry postgresql://user@host/database --artifacts s3://bucket/x"),
        ("folder", "ftp://host/x", "unknown scheme ftp"),
        ("folder", "s3://", "names no bucket"),
    ],
)
def test_where_a_registry_cannot_be(registry: str, artifacts: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        home_of(registry, artifacts)
    assert problem in str(raised.value)


async def test_versions_are_copied_between_stores(registry: ModelRegistry, s3: S3, tmp_path: Path) -> None:
    content = await compressed(registry, s3, tmp_path)
    other = await opened(tmp_path / "other", registry.artifacts.where.replace("/some/", "/another/"))
    versions = await registry.ledger.read(rows.files)
    target = other.artifacts
    read: list[int] = []

    def stop(size: int) -> None:
        read.append(size)
        if len(read) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(copy_versions, registry.artifacts, target, versions, stop)
    assert target.names("fraud", 1) == frozenset()
    (copied,) = await asyncio.to_thread(copy_versions, registry.artifacts, target, versions, read.append)
    assert copied == Copied("fraud", 1, len(content) + 3)
    assert sum(read) == copied.bytes + (1 << 20)  # the piece at which it was stopped
    assert target.entries("fraud", 1) == versions["fraud", 1]
    assert files_of(target.folder) == ["copy.lock"]
    bucket = target._address.root.partition("/")[0]  # type: ignore[attr-defined]
    s3.client.delete_object(Bucket=bucket, Key="another/place/models/fraud/1/labels")
    assert await asyncio.to_thread(copy_versions, registry.artifacts, target, versions) == [copied]
    await other.ledger.close()
