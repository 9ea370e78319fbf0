"""The drill: a registry is backed up while others push, restored elsewhere, and is the same and whole."""

import asyncio
import bz2
import gzip
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from databases import empty_ledger
from registries import ANN, KINDS, Clock, counted, found, open_registry
from sqlalchemy import insert, select
from waiting import PATIENCE_S

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import METADATA, MODEL
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed
from salver.features.registry.backup import back_up, restore
from salver.features.registry.names import parse
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.tokens import Tokens
from salver.words.errors import Conflict, InvalidInput


async def push(registry: ModelRegistry, folder: Path, content: bytes, alias: str = "") -> None:
    what = found(folder, {"model.onnx": content, "labels/a.txt": b"cat\ndog"})
    await registry.push(NewVersion("fraud", alias=alias, metrics={"auc": 0.1 + 0.2}), what, ANN)


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def changed(file: Path, how: Callable[[bytes], bytes]) -> None:
    file.write_bytes(how(file.read_bytes()))


def left_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def everything(registry: ModelRegistry) -> dict[str, list[object]]:
    return await registry.ledger.read(
        lambda c: {t.name: sorted(map(tuple, c.execute(select(t))), key=repr) for t in METADATA.sorted_tables}
    )


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_the_drill(source: str, target: str, tmp_path: Path) -> None:
    registry = await open_registry(source, tmp_path / "one")
    await push(registry, tmp_path / "new", b"first", "champion")
    await push(registry, tmp_path / "new", b"second")
    await registry.remove("fraud", 2, ANN)
    is_over = asyncio.Event()

    async def load() -> None:
        while not is_over.is_set():
            await push(registry, tmp_path / "load", b"more", "candidate")

    loading = asyncio.create_task(load())
    about = await back_up(registry, tmp_path / "backup.tar", 5.0)
    is_over.set()
    await loading
    assert about.versions >= 1
    assert (tmp_path / "backup.tar").stat().st_mode & 0o077 == 0
    await registry.ledger.close()
    shutil.rmtree(tmp_path / "one")  # the disk is gone

    back = await open_registry(target, tmp_path / "two")
    assert await restore(tmp_path / "backup.tar", back, "aside") == about
    assert await back.verify() == ()
    assert list((tmp_path / "two" / "incoming").iterdir()) == []
    champion = await back.version(parse("fraud@champion"))
    assert (back.artifacts.path_of("fraud", champion.number) / "model.onnx").read_bytes() == b"first"
    assert champion.metrics == {"auc": 0.1 + 0.2}
    versions = await back.versions("fraud")
    assert len(versions) == about.versions
    history = await back.history(most=1000)
    pushed = {int(entry.subject) for entry in history if entry.action == "version.pushed"}
    assert pushed == {version.number for version in versions} | {2}  # one state: rows and their audit
    again = await back_up(back, tmp_path / "again.tar", 5.0)
    assert again == about
    third = await open_registry(source, tmp_path / "three")
    await restore(tmp_path / "again.tar", third, "aside")
    assert await everything(third) == await everything(back)
    await push(back, tmp_path / "new", b"next", "champion")  # life goes on
    for opened in (back, third):
        await opened.ledger.close()


@pytest.fixture
async def backed_up(tmp_path: Path) -> Path:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights", "champion")
    await back_up(registry, tmp_path / "backup.tar", 5.0)
    await registry.ledger.close()
    return tmp_path / "backup.tar"


async def test_a_registry_that_is_not_empty_is_not_written_over(backed_up: Path, tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")
    await push(registry, tmp_path / "new", b"other")
    before = await everything(registry)
    with pytest.raises(Conflict, match="is not empty"):
        await restore(backed_up, registry, "aside")
    assert await everything(registry) == before
    await registry.ledger.close()


async def test_files_that_are_there_are_not_written_over(backed_up: Path, tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")
    own = tmp_path / "two" / "models" / "fraud" / "1"
    own.mkdir(parents=True)
    (own / "mine").write_bytes(b"mine")
    with pytest.raises(Conflict, match="has another fraud/1"):
        await restore(backed_up, registry, "aside")
    assert (own / "mine").read_bytes() == b"mine"
    assert await registry.models() == ()
    await registry.ledger.close()


async def test_a_restore_that_was_killed_before_its_last_step_is_taken_up(
    backed_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("salver.features.registry.backup.copy_in", killed)
        await restore(backed_up, registry, "aside")
    assert await registry.models() == ()
    await restore(backed_up, registry, "aside")
    assert await registry.verify() == ()
    assert (await registry.version(parse("fraud@champion"))).number == 1
    await registry.ledger.close()


@pytest.mark.parametrize("damage", ["cut", "other", "text", "changed", "missing"])
async def test_a_backup_that_is_not_whole_is_refused(backed_up: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken.tar"
    await asyncio.to_thread(_damage, backed_up, broken, damage)
    registry = await open_registry("sqlite", tmp_path / "two")
    with pytest.raises(InvalidInput, match="backup"):
        await restore(broken, registry, "aside")
    assert await registry.models() == ()
    assert not (tmp_path / "two" / "models").exists()
    await registry.ledger.close()


def _damage(whole: Path, broken: Path, damage: str) -> None:
    content = whole.read_bytes()
    match damage:
        case "cut":
            broken.write_bytes(content[: len(content) // 2])
        case "text":
            broken.write_text("no archive")
        case "other":
            with tarfile.open(broken, "w") as archive:
                archive.add(whole, "something")
        case "changed":
            broken.write_bytes(content.replace(b"weights", b"weighty"))
        case "missing":
            with tarfile.open(whole) as archive, tarfile.open(broken, "w") as copy:
                for member in archive:
                    if not member.name.endswith("labels/a.txt"):
                        copy.addfile(member, archive.extractfile(member))


async def test_a_backup_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights")
    file = tmp_path / "backup.tar"
    await back_up(registry, file, 5.0)
    before = file.read_bytes()
    home = registry.artifacts.path_of("fraud", 1)
    (home / "labels" / "a.txt").unlink()
    with pytest.raises(ArtifactsFailed, match=r"labels/a\.txt"):
        await back_up(registry, file, 6.0)
    assert file.read_bytes() == before
    assert left_of(tmp_path) == ["backup.tar", "new", "one"]
    await registry.ledger.close()


async def test_a_version_that_is_removed_meanwhile_is_left_out(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    for content in (b"first", b"second"):
        await push(registry, tmp_path / "new", content)
    path_of = registry.artifacts.path_of
    loop = asyncio.get_running_loop()

    def removed_meanwhile(model: str, number: int) -> Path:
        registry.artifacts.path_of = path_of  # type: ignore[method-assign]
        asyncio.run_coroutine_threadsafe(registry.remove("fraud", 1, ANN), loop).result(PATIENCE_S)
        return path_of(model, number)

    registry.artifacts.path_of = removed_meanwhile  # type: ignore[method-assign]
    about = await back_up(registry, tmp_path / "backup.tar", 5.0)
    assert about.versions == 1
    await registry.ledger.close()


async def test_a_ledger_that_a_newer_salver_wrote_is_not_restored(backed_up: Path, tmp_path: Path) -> None:
    ledger = await Ledger.open(empty_ledger("sqlite", tmp_path))
    registry = ModelRegistry(ledger, Artifacts(tmp_path / "two"), Clock(), counted().__next__)
    await asyncio.to_thread(_age, backed_up, tmp_path / "newer.tar", tmp_path / "unpacked")
    with pytest.raises(Conflict, match="Use the version of Salver"):
        await restore(tmp_path / "newer.tar", registry, "aside")
    assert await registry.models() == ()
    await ledger.close()


def _age(old: Path, newer: Path, folder: Path) -> None:
    import sqlite3

    with tarfile.open(old) as archive:
        archive.extractall(folder, filter="data")
    connection = sqlite3.connect(folder / "salver.db")
    connection.execute("INSERT INTO salver_schema VALUES (999)")
    connection.commit()
    connection.close()
    with tarfile.open(newer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(folder))


@pytest.mark.parametrize("left", [b"weighty", b"weight", b"weights!", None])
async def test_a_damaged_file_is_found_when_it_is_backed_up_not_when_it_is_needed(
    tmp_path: Path, left: bytes | None
) -> None:
    """Such a backup would be refused when it is to be restored, which is too late."""
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights")
    file = registry.artifacts.path_of("fraud", 1) / "model.onnx"
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    with pytest.raises(ArtifactsFailed, match=r"models/fraud/1/model\.onnx differs.* from an older backup"):
        await back_up(registry, tmp_path / "backup.tar", 5.0)
    assert left_of(tmp_path) == ["new", "one"]
    await registry.ledger.close()


async def test_nobody_else_reads_the_secrets_of_what_is_being_restored(
    backed_up: Path, tmp_path: Path
) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")
    adopt, modes = registry.artifacts.adopt, set()

    def seen(*arguments):  # type: ignore[no-untyped-def]
        modes.add(registry.artifacts.aside("aside").stat().st_mode & 0o077)
        adopt(*arguments)

    registry.artifacts.adopt = seen  # type: ignore[method-assign]
    await restore(backed_up, registry, "aside")
    assert modes == {0}
    await registry.ledger.close()


async def test_two_backups_into_one_file_do_not_mix(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights" * 100_000)
    file = tmp_path / "backup.tar"
    await asyncio.gather(*(back_up(registry, file, 5.0) for _ in range(3)))
    back = await open_registry("sqlite", tmp_path / "two")
    await restore(file, back, "aside")
    assert await back.verify() == ()
    for opened in (registry, back):
        await opened.ledger.close()


async def test_what_a_killed_backup_left_goes_with_a_later_one(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights")
    left, young = tmp_path / ".backup.tar.0a.part", tmp_path / ".backup.tar.0b.part"
    for path in (left, young, tmp_path / ".other.tar.0a.part"):
        path.mkdir()
        (path / "0.tar").write_bytes(b"half of it")
    os.utime(left, (1000, 1000))
    await back_up(registry, tmp_path / "backup.tar", young.stat().st_mtime)
    assert [path.exists() for path in (left, young, tmp_path / ".other.tar.0a.part")] == [False, True, True]
    await registry.ledger.close()


@pytest.mark.parametrize("first", ["token", "model"])
async def test_a_registry_that_somebody_has_begun_with_is_left_as_it_is(
    backed_up: Path, tmp_path: Path, first: str
) -> None:
    """And no file comes into it, though there is no version in it yet."""
    registry = await open_registry("sqlite", tmp_path / "two")
    if first == "token":
        ids = counted().__next__
        await Tokens(registry.ledger, Clock(), ids, lambda count: bytes(count)).make("ann", ["admin"], ANN)
    else:  # of a push that was killed
        row = {"name": "fraud", "last_number": 1, "created": 1.0, "by": "ann"}
        await registry.ledger.write(lambda c: c.execute(insert(MODEL), row) and None)
    with pytest.raises(Conflict, match="is not empty"):
        await restore(backed_up, registry, "aside")
    assert not (tmp_path / "two" / "models").exists()
    await registry.ledger.close()


async def test_what_was_restored_is_for_all_to_read_and_for_nobody_to_write(
    backed_up: Path, tmp_path: Path
) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")
    await restore(backed_up, registry, "aside")
    files = [path for path in registry.artifacts.path_of("fraud", 1).rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o444}
    await registry.ledger.close()


async def test_a_backup_that_there_is_no_room_for_is_not_unpacked(
    backed_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salver.features.registry.backup.room_in", lambda folder: 4096)
    registry = await open_registry("sqlite", tmp_path / "two")
    with pytest.raises(InvalidInput, match="there is no room for it"):
        await restore(backed_up, registry, "aside")
    assert not registry.artifacts.aside("aside").exists()
    await registry.ledger.close()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
async def test_a_backup_that_somebody_has_compressed_is_restored(
    compress: Callable[[bytes], bytes], backed_up: Path, tmp_path: Path
) -> None:
    changed(backed_up, compress)
    registry = await open_registry("sqlite", tmp_path / "two")
    assert (await restore(backed_up, registry, "aside")).versions == 1
    assert content_of(registry.artifacts.path_of("fraud", 1) / "model.onnx") == b"weights"
    await registry.ledger.close()


async def test_a_backup_with_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    with gzip.open(tmp_path / "odd.tar", "wb", 1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(65 << 20))
    registry = await open_registry("sqlite", tmp_path / "two")
    with pytest.raises(InvalidInput, match="no honest archive"):
        await restore(tmp_path / "odd.tar", registry, "aside")
    await registry.ledger.close()


@pytest.mark.parametrize("kind", ["link", "above"])
async def test_a_backup_of_somebody_else_brings_no_links_and_leads_nowhere(tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo("models/x/1/a" if kind == "link" else "../../../a")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.addfile(member)
    registry = await open_registry("sqlite", tmp_path / "two")
    with pytest.raises(InvalidInput, match="backup of a registry"):
        await restore(tmp_path / "odd.tar", registry, "aside")
    assert not (tmp_path / "a").exists()
    await registry.ledger.close()
