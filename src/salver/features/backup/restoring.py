"""Restoration of backups: everything is verified and prepared aside before the first name changes."""

import asyncio
import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

import msgspec

from salver.features.backup.creating import versions_in
from salver.features.backup.folder import BackupFolder
from salver.features.backup.manifest import Manifest, Part, StoredFile
from salver.features.ledger.copying import check_empty, copy_in
from salver.features.ledger.databases import address_of, path_of
from salver.features.ledger.faults import shown
from salver.features.ledger.migrations import check_age
from salver.features.registry.artifacts import Artifacts, disk_errors, entry_of, onto_disk
from salver.features.registry.opening import RegistryLocation, artifacts_of, open_ledger
from salver.words.errors import Conflict, NotFound

_FIX: Final = "Move it away, or say --replace."


class Restored(msgspec.Struct, frozen=True):
    """Counts of a restore, without what was there already."""

    settings: int
    versions: int
    ledger: str


class Restore:
    """One restore of a backup.

    Args:
        home: Where the registry goes; None = the server had none.
        replaces: Move other files that are in the way aside, and replace other versions.
        id: Part of temporary names.
    """

    def __init__(
        self,
        folder: BackupFolder,
        manifest: Manifest,
        home: RegistryLocation | None,
        *,
        replaces: bool = False,
        id: str,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._home = home
        self._replaces = replaces
        self._id = id

    async def run(self, parts: Collection[Part] = ()) -> Restored:
        """Restore these parts, each completely or not at all; none = all.

        Raises:
            InvalidInput: the backup is damaged; nothing was changed.
            Conflict: something else is in the way, or a newer Salver wrote the backup; nothing was changed.
            ArtifactsFailed, LedgerFailed: something cannot be written.
        """
        check_age(self._manifest.schema)
        parts = parts or get_args(Part)
        with contextlib.ExitStack() as stack:
            settings: Mapping[StoredFile, Path] = {}
            if "settings" in parts:
                settings = await asyncio.to_thread(self._stage_settings, stack)
            versions, ledger = 0, ""
            if self._home is not None:
                copy = Path(stack.enter_context(TemporaryDirectory())) / "salver.db"
                if "ledger" in parts:
                    await self._check_ledger(self._home, copy)
                if "artifacts" in parts:
                    versions = await asyncio.to_thread(self._restore_versions, artifacts_of(self._home))
                if "ledger" in parts:
                    ledger = await self._restore_ledger(self._home, copy)
            await asyncio.to_thread(self._place_settings, settings)
        return Restored(len(settings), versions, ledger)

    def _stage_settings(self, stack: contextlib.ExitStack) -> dict[StoredFile, Path]:
        staged = {}
        for file in self._manifest.files:
            path = Path(file.path)
            if _is_same(path, file):
                continue
            if path.exists() and not self._replaces:
                raise Conflict(f"{path} is there already, with another content", fix=_FIX)
            part = path.with_name(f".{path.name}.{self._id}.part")
            stack.callback(part.unlink, missing_ok=True)
            self._folder.extract(file, part)
            with disk_errors(part):
                part.chmod(file.mode & 0o777)
            staged[file] = part
        return staged

    def _place_settings(self, staged: Mapping[StoredFile, Path]) -> None:
        for file, part in staged.items():
            path = Path(file.path)
            with disk_errors(path):
                self._move_aside(path)
                part.rename(path)
                onto_disk(path.parent)

    async def _check_ledger(self, home: RegistryLocation, copy: Path) -> None:
        """Prepare a copy of the backup's ledger, and check that its place is empty or may be replaced."""
        assert self._manifest.ledger is not None
        await asyncio.to_thread(self._folder.extract, self._manifest.ledger, copy)
        await versions_in(copy)
        if path_of(address_of(home.url)) is not None and self._replaces:
            return
        with contextlib.suppress(NotFound):
            async with await open_ledger(home.url) as ledger:
                await ledger.read(lambda connection: check_empty(connection, shown(ledger.url)))

    async def _restore_ledger(self, home: RegistryLocation, copy: Path) -> str:
        file = path_of(address_of(home.url))
        if file is not None and self._replaces:
            with disk_errors(file):
                for each in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
                    self._move_aside(each)
        async with await open_ledger(home.url, makes=True) as ledger:
            await copy_in(copy, ledger)
            return shown(ledger.url)

    def _restore_versions(self, artifacts: Artifacts) -> int:
        with artifacts.held():
            versions = self._manifest.by_version()
            there = {version: artifacts.entries(*version) for version in versions}
            wanted = [version for version, files in versions.items() if there[version] != files]
            others = [f"{model}/{number}" for model, number in wanted if there[model, number]]
            if others and not self._replaces:
                raise Conflict(f"{artifacts.where} has another {', '.join(others[:5])}", fix=_FIX)
            staged = Artifacts(artifacts.aside(self._id))
            try:
                for model, number in wanted:
                    for entry in versions[model, number]:
                        self._folder.extract(entry, staged.path_of(model, number) / entry.path)
                for model, number in wanted:
                    if there[model, number]:
                        artifacts.remove(model, number, f"{self._id}.replaced")
                    artifacts.adopt(staged, model, number)
            finally:
                artifacts.drop(self._id)
        return len(wanted)

    def _move_aside(self, path: Path) -> None:
        if os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}.replaced-{self._id}"))


def _is_same(path: Path, file: StoredFile) -> bool:
    try:
        with path.open("rb") as opened:
            return entry_of(opened, "").sha256 == file.sha256
    except OSError:
        return False
