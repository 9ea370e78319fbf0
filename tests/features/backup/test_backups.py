"""Is a backup one whole state, and does it come back, or is what is wrong said before anything changes?"""

import asyncio
import errno
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from databases import SQLITE_MOSTLY
from registries import ANN, KINDS, Clock, counted, found, open_registry
from sqlalchemy import insert, select
from waiting import PATIENCE_S

from salver.features.backup.creating import Source, create, verify
from salver.features.backup.folder import BackupFolder
from salver.features.backup.manifest import FORMAT, Manifest, StartCommand, decode, encode
from salver.features.backup.restoring import Restore, Restored
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import METADATA, NEWEST, OUTCOME
from salver.features.registry.artifacts import ArtifactsFailed
from salver.features.registry.names import parse
from salver.features.registry.opening import RegistryLocation
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.words.errors import Conflict, InvalidInput, NotFound, SalverError

NOW = 1_800_000_000.0
START = StartCommand("/srv", ("models",))


async def push(registry: ModelRegistry, folder: Path, content: bytes, alias: str = "") -> None:
    what = found(folder, {"model.onnx": content, "labels/a.txt": b"cat\ndog", "labels.txt": b"x"})
    await registry.push(NewVersion("fraud", alias=alias, metrics={"auc": 0.1 + 0.2}), what, ANN)


async def everything(registry: ModelRegistry) -> dict[str, list[object]]:
    return await registry.ledger.read(
        lambda c: {t.name: sorted(map(tuple, c.execute(select(t))), key=repr) for t in METADATA.sorted_tables}
    )


async def post(registry: ModelRegistry, number: int) -> None:
    row = {"id": f"o{number}", "key_kind": "unit", "key": number, "name": "sale", "value": 0.1 * number}
    times = {"event_time": 1.0, "ingest_time": 2.0}
    await registry.ledger.write(lambda c: c.execute(insert(OUTCOME), row | times) and None)


def place_of(registry: ModelRegistry) -> RegistryLocation:
    return RegistryLocation(
        registry.ledger.url.render_as_string(hide_password=False), registry.artifacts.folder
    )


async def back(
    backups: BackupFolder, home: RegistryLocation | None, *, replaces: bool = False, id: str = ""
) -> Restored:
    manifest = backups.read(id or backups.ids()[-1])
    return await Restore(backups, manifest, home, replaces=replaces, id="aside").run()


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_the_drill(source: str, target: str, tmp_path: Path) -> None:
    """Backed up while others push and post, lost, restored: the same to the byte, and whole."""
    registry = await open_registry(source, tmp_path / "one")
    await push(registry, tmp_path / "new", b"first", "champion")
    await push(registry, tmp_path / "new", b"second")
    await registry.remove("fraud", 2, ANN)
    backups, is_over = BackupFolder(tmp_path / "backups"), asyncio.Event()

    async def load() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            await post(registry, number)
            await push(registry, tmp_path / "load", b"more %d" % number, "candidate")

    loading = asyncio.create_task(load())
    id = await create(backups, Source(START), registry, NOW)
    is_over.set()
    await loading
    manifest = backups.read(id)
    assert manifest.versions and not (await verify(backups, id)).problems
    pushed = {
        version.number: files_below(registry.artifacts.path_of("fraud", version.number))
        for version in manifest.versions
    }
    await registry.ledger.close()
    shutil.rmtree(tmp_path / "one")  # the disk is gone

    new = await open_registry(target, tmp_path / "two")
    restored = await back(backups, place_of(new))
    assert restored.versions == len(manifest.versions)
    assert await new.verify() == ()
    assert {number: files_below(new.artifacts.path_of("fraud", number)) for number in pushed} == pushed
    assert list((tmp_path / "two" / "incoming").iterdir()) == []
    champion = await new.version(parse("fraud@champion"))
    assert champion.metrics == {"auc": 0.1 + 0.2}
    history = await new.history(most=1000)
    logged = {int(entry.subject) for entry in history if entry.action == "version.pushed"}
    assert logged == set(pushed) | {2}  # one state: rows and their audit
    assert manifest.ledger is not None
    copy = tmp_path / "copy" / "salver.db"
    await asyncio.to_thread(backups.extract, manifest.ledger, copy)
    async with await Ledger.open(f"sqlite:///{copy}") as ledger:
        then = ModelRegistry(ledger, new.artifacts, Clock(), counted().__next__)
        assert await everything(new) == await everything(then)
    await push(new, tmp_path / "new", b"next", "champion")  # life goes on
    await new.ledger.close()


@pytest.fixture
async def backups(tmp_path: Path) -> BackupFolder:
    """A backup of a registry with one version, and of a file of settings."""
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights", "champion")
    (tmp_path / "keys.toml").write_text("secret")
    (tmp_path / "keys.toml").chmod(0o600)
    folder = BackupFolder(tmp_path / "backups")
    await create(folder, Source(START, (tmp_path / "keys.toml",)), registry, NOW)
    await registry.ledger.close()
    return folder


def home(tmp_path: Path) -> RegistryLocation:
    return RegistryLocation(f"sqlite:///{tmp_path / 'two' / 'salver.db'}", tmp_path / "two")


def blobs(backups: BackupFolder) -> dict[bytes, Path]:
    return {path.read_bytes(): path for path in backups.folder.glob("blobs/??/*")}


async def test_only_the_owner_reads_a_backup_and_what_is_restored(
    backups: BackupFolder, tmp_path: Path
) -> None:
    inside = [
        path
        for name in ("blobs", "manifests")
        for path in (backups.folder / name, *(backups.folder / name).rglob("*"))
    ]
    assert {path.stat().st_mode & 0o077 for path in inside} == {0}
    (tmp_path / "keys.toml").unlink()
    assert (await back(backups, home(tmp_path))).settings == 1
    assert (tmp_path / "keys.toml").read_text() == "secret"
    assert (tmp_path / "keys.toml").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "two" / "salver.db").stat().st_mode & 0o077 == 0
    model = tmp_path / "two" / "models" / "fraud" / "1" / "model.onnx"
    assert model.stat().st_mode & 0o777 == 0o444


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
@pytest.mark.parametrize("what", [b"weights", b"SQLite format 3", b"secret", b'{"format"'])
async def test_a_damaged_backup_is_found_and_changes_nothing(
    what: bytes, damage: Callable[[Path], None], backups: BackupFolder, tmp_path: Path
) -> None:
    id = backups.ids()[-1]
    files = {**blobs(backups), **{p.read_bytes(): p for p in backups.folder.glob("manifests/*")}}
    (path,) = (path for content, path in files.items() if content.startswith(what))
    await asyncio.to_thread(damage, path)
    (tmp_path / "keys.toml").unlink()
    assert (await verify(backups, id)).problems
    with pytest.raises((InvalidInput, NotFound)):
        await back(backups, home(tmp_path), id=id)
    assert not (tmp_path / "keys.toml").exists()
    assert not (tmp_path / "two" / "models").exists()
    assert not (tmp_path / "two" / "salver.db").exists()


async def test_what_is_in_the_way_is_refused_and_with_replace_moved_aside(
    backups: BackupFolder, tmp_path: Path
) -> None:
    registry = await open_registry("sqlite", tmp_path / "two")
    await push(registry, tmp_path / "new", b"other")
    await registry.ledger.close()
    (tmp_path / "keys.toml").write_text("newer")
    before = files_below(tmp_path / "two" / "models")
    with pytest.raises(Conflict, match=r"keys\.toml is there already"):
        await back(backups, home(tmp_path))
    (tmp_path / "keys.toml").unlink()
    with pytest.raises(Conflict, match="has rows in audit already"):
        await back(backups, home(tmp_path))
    (tmp_path / "two" / "salver.db").write_bytes(b"no database")  # as a damaged one is
    with pytest.raises(SalverError, match="not a database"):
        await back(backups, home(tmp_path))
    assert files_below(tmp_path / "two" / "models") == before
    (tmp_path / "keys.toml").write_text("newer")
    await back(backups, home(tmp_path), replaces=True)
    assert (tmp_path / "keys.toml.replaced-aside").read_text() == "newer"
    assert (tmp_path / "two" / "salver.db.replaced-aside").read_bytes() == b"no database"
    restored = await open_registry("sqlite", tmp_path / "two")
    assert await restored.verify() == ()
    await restored.ledger.close()


async def test_another_version_of_that_number_is_refused(backups: BackupFolder, tmp_path: Path) -> None:
    own = tmp_path / "two" / "models" / "fraud" / "1"
    own.mkdir(parents=True)
    (own / "mine").write_bytes(b"mine")
    with pytest.raises(Conflict, match="has another fraud/1"):
        await back(backups, home(tmp_path))
    assert files_below(own) == {"mine": b"mine"}


async def test_a_restore_that_was_killed_half_way_is_taken_up(
    backups: BackupFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("salver.features.backup.restoring.copy_in", killed)
        await back(backups, home(tmp_path))
    assert (await back(backups, home(tmp_path))).versions == 0  # they are there already
    registry = await open_registry("sqlite", tmp_path / "two")
    assert await registry.verify() == ()
    assert (await registry.version(parse("fraud@champion"))).number == 1
    await registry.ledger.close()


async def test_lost_files_come_back_without_the_ledger(backups: BackupFolder, tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"since then")
    shutil.rmtree(tmp_path / "one" / "models")
    task = Restore(backups, backups.read(backups.ids()[-1]), place_of(registry), id="aside")
    assert await task.run(["artifacts"]) == Restored(0, 1, "")
    assert {(fault.number, fault.problem) for fault in await registry.verify()} == {(2, "missing")}
    await registry.ledger.close()


async def test_a_second_backup_copies_only_what_is_new_and_old_ones_can_be_removed(
    backups: BackupFolder, tmp_path: Path
) -> None:
    before = blobs(backups)
    registry = await open_registry("sqlite", tmp_path / "one")
    (registry.artifacts.path_of("fraud", 1) / "model.onnx").unlink()  # which is in the first backup
    await push(registry, tmp_path / "new", b"more weights")
    (backups.folder / "blobs" / "0a.part").write_bytes(b"of a killed backup")
    first = backups.ids()
    second = await create(backups, Source(START), registry, NOW + 1)
    assert backups.ids() == [*first, second]
    new = set(blobs(backups)) - set(before)
    assert b"more weights" in new and len(new) == 2  # and the ledger
    third = await create(backups, Source(START), registry, NOW + 2, keep=1)
    assert backups.ids() == [third]
    assert b"secret" not in blobs(backups)
    assert not (await verify(backups, third)).problems
    with backups.writing(), pytest.raises(Conflict, match="another backup is being written"):
        await create(backups, Source(START), registry, NOW + 3)
    await registry.ledger.close()


@pytest.mark.parametrize("kind", SQLITE_MOSTLY)
async def test_a_version_that_is_removed_meanwhile_is_left_out(kind: str, tmp_path: Path) -> None:
    registry = await open_registry(kind, tmp_path / "one")
    for content in (b"first", b"second"):
        await push(registry, tmp_path / "new", content)
    path_of = registry.artifacts.path_of
    loop = asyncio.get_running_loop()

    def removed_meanwhile(model: str, number: int) -> Path:
        registry.artifacts.path_of = path_of  # type: ignore[method-assign]
        asyncio.run_coroutine_threadsafe(registry.remove("fraud", 1, ANN), loop).result(PATIENCE_S)
        return path_of(model, number)

    registry.artifacts.path_of = removed_meanwhile  # type: ignore[method-assign]
    backups = BackupFolder(tmp_path / "backups")
    id = await create(backups, Source(START), registry, NOW)
    assert [version.number for version in backups.read(id).versions] == [2]
    await registry.ledger.close()


@pytest.mark.parametrize("left", [b"weighty", b"weight", None])
async def test_a_file_that_is_damaged_before_its_first_backup_is_named(
    left: bytes | None, tmp_path: Path
) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights")
    file = registry.artifacts.path_of("fraud", 1) / "model.onnx"
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    backups = BackupFolder(tmp_path / "backups")
    with pytest.raises(ArtifactsFailed, match=r"fraud/1/model\.onnx"):
        await create(backups, Source(START), registry, NOW)
    with pytest.raises(NotFound, match="there is no backup"):
        backups.ids()
    await registry.ledger.close()


async def test_a_ledger_that_is_damaged_is_not_backed_up(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"weights")
    await registry.ledger.close()
    damage(tmp_path / "one" / "salver.db")
    damaged = await open_registry("sqlite", tmp_path / "one")
    with pytest.raises(SalverError, match=r"salver backup restore FOLDER --only ledger"):
        await create(BackupFolder(tmp_path / "backups"), Source(START), damaged, NOW)
    await damaged.ledger.close()


async def test_a_backup_without_room_leaves_the_earlier_one_whole(
    backups: BackupFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await open_registry("sqlite", tmp_path / "one")
    await push(registry, tmp_path / "new", b"more")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files_below(backups.folder)
    monkeypatch.setattr("salver.features.backup.folder.copy_hashed", full)
    with pytest.raises(ArtifactsFailed, match=r"No space left on device\. Check free space"):
        await create(backups, Source(START), registry, NOW + 1)
    assert files_below(backups.folder) == before
    await registry.ledger.close()


def damage(file: Path) -> None:
    """Overwrite the pages of the audit log, which are not read when a ledger is opened."""
    with sqlite3.connect(file) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'audit_of_model'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(b"\xff" * size)


def manifest(**fields: object) -> Manifest:
    return Manifest(**{"format": FORMAT, "salver": "1", "created": NOW, "start": START, **fields})  # type: ignore[arg-type]


FILE = {"size": 1, "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"format": FORMAT + 1}, "reads at most"),
        ({"salver": 1}, "cannot be read"),
        ({"files": [{**FILE, "path": "etc/passwd", "mode": 0o644}]}, "no absolute path"),
        ({"files": [{**FILE, "path": "/srv/../etc/passwd", "mode": 0o644}]}, "no absolute path"),
        ({"ledger": {"path": "x", "size": 1, "sha256": "../../x"}}, "no SHA-256"),
        (
            {"versions": [{"model": "m", "number": 1, "files": [{**FILE, "path": "../x"}]}]},
            "leaves the folder",
        ),
        ({"versions": [{"model": "../m", "number": 1, "files": []}]}, "not allowed as a model name"),
    ],
)
def test_a_manifest_that_names_what_it_may_not_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(SalverError, match=problem):
        decode(*encode(manifest(**fields)))


async def test_a_backup_of_a_newer_salver_is_not_restored(backups: BackupFolder, tmp_path: Path) -> None:
    newer = msgspec.structs.replace(backups.read(backups.ids()[-1]), schema=NEWEST + 1, created=NOW + 1)
    id = backups.write(newer)
    with pytest.raises(Conflict, match="Use the version of Salver"):
        await back(backups, home(tmp_path), id=id)
    assert not (tmp_path / "two").exists()


async def test_folders_are_backed_up_with_what_their_links_lead_to(tmp_path: Path) -> None:
    models, apart = tmp_path / "models", tmp_path / "apart"
    (models / "m" / "1").mkdir(parents=True)
    (apart / "2").mkdir(parents=True)
    (apart / "2" / "model.onnx").write_bytes(b"two")
    (models / "m" / "1" / "model.onnx").write_bytes(b"one")
    (models / "m" / "2").symlink_to(apart / "2")
    (models / "m" / "again").symlink_to(models)  # a loop
    registry = await open_registry("sqlite", models / "registry")  # which is backed up as one
    folder = BackupFolder(models / "backups")
    await create(folder, Source(START, (models,)), registry, NOW)
    await registry.ledger.close()
    shutil.rmtree(models / "m")
    restored = await back(folder, None)
    assert restored.settings == 2
    assert files_below(models / "m") == {"1/model.onnx": b"one", "2/model.onnx": b"two"}
