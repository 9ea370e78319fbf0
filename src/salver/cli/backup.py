"""``salver backup``: back up a whole server, verify backups, and restore one."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import App, Parameter

from salver.terminal.options import Artifacts, Json, Registry
from salver.terminal.output import listed, moment, result, under_way

if TYPE_CHECKING:
    from salver.cli.serve_options import Resolved
    from salver.features.backup.creating import Source, Verified
    from salver.features.registry.opening import RegistryLocation

backup = App(
    name="backup",
    help="Back up a whole server, verify backups, and restore one.",
    default_parameter=Parameter(negative=()),
)
#: Options of ``salver serve`` that name files with settings.
SETTINGS: Final = (
    "api_token_file",
    "chat_template",
    "identity_file",
    "keys_file",
    "tls.cert",
    "tls.client_ca",
    "tls.key",
    "tokenizer",
)
Id = Annotated[str, Parameter(help="Id of a backup, as salver backup verify lists it.")]


@backup.command
def create(
    to: Path,
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)],
    keep: Annotated[int, Parameter(help="Backups to keep; older ones are removed. 0 = all.")] = 0,
    json: Json = False,
) -> None:
    """Back up a server while it runs: settings, keys, models, registry and ledger with its outcomes.

    It contains secrets, as the server's own files do, and only you can read it. What earlier backups in the
    folder contain is not copied again.

    Args:
        to: Folder of backups, on another disk than the server's.
        words: PATHs and flags of salver serve, as the server was started with.
    """
    from salver.cli.serve_options import resolve
    from salver.features.backup.creating import create as write
    from salver.features.backup.folder import BackupFolder
    from salver.features.registry.command_options import new_id, now
    from salver.features.registry.opening import home_of, open_registry

    source = source_of(words, resolve(words))
    folder = BackupFolder(to.absolute())

    async def main() -> str:
        if not source.registry:
            return await write(folder, source, None, now(), keep)
        registry = await open_registry(home_of(source.registry, source.artifacts), now, new_id)
        async with registry.ledger:
            return await write(folder, source, registry, now(), keep)

    with under_way("backing up"):
        id = asyncio.run(main())
    manifest = folder.read(id)
    files, versions = len(manifest.files), len(manifest.versions)
    told = {"id": id, "files": files, "versions": versions, "ledger": bool(manifest.ledger)}
    result(told, f"{id}: {_content(files, versions, has_ledger=manifest.ledger is not None)}", json=json)


@backup.command
def verify(folder: Path, /, *, id: Id = "", json: Json = False) -> int:
    """Check everything in the backups of a folder by its digest; the exit status is 1 if any is damaged.

    Args:
        folder: Folder of backups.
    """
    from salver.features.backup.creating import verify as check
    from salver.features.backup.folder import BackupFolder

    backups = BackupFolder(folder.absolute())

    async def main() -> "list[Verified]":
        return [await check(backups, each) for each in ([id] if id else backups.ids())]

    def row(found: "Verified") -> list[str]:
        state = "\n".join(found.problems) or "ok"
        return [
            found.id,
            moment(found.created),
            str(found.files),
            str(found.versions),
            str(found.bytes),
            state,
        ]

    with under_way("verifying"):
        all_found = asyncio.run(main())
    listed(all_found, ("backup", "created", "files", "versions", "bytes", "state"), row, json=json)
    return int(any(found.problems for found in all_found))


@backup.command
def restore(
    folder: Path,
    /,
    *,
    id: Id = "",
    only: Annotated[
        tuple[Literal["settings", "ledger", "artifacts"], ...],
        Parameter(help="Part to restore, repeatable (default: all)."),
    ] = (),
    registry: Registry = "",
    artifacts: Artifacts = "",
    replace: Annotated[
        bool, Parameter(help="Move what is in the way aside, and replace versions that differ.")
    ] = False,
    json: Json = False,
) -> None:
    """Restore a server where it was: its settings and models, its registry and its ledger.

    What is there already, the same, stays. A different file, or a ledger with rows, is an error.

    Args:
        folder: Folder of backups; the newest is restored.
        registry: Another place for the ledger, of either kind.
        artifacts: Another place for the registry's files.
    """
    from salver.cli.config_command import without_passwords
    from salver.features.backup.folder import BackupFolder
    from salver.features.backup.restoring import Restore
    from salver.features.registry.command_options import new_id
    from salver.features.registry.opening import home_of

    backups = BackupFolder(folder.absolute())
    manifest = backups.read(id or backups.ids()[-1])
    home: RegistryLocation | None = None
    if manifest.ledger is not None:
        if not registry:
            artifacts = artifacts or manifest.artifacts
        home = home_of(registry or manifest.registry, artifacts)
    task = Restore(backups, manifest, home, replaces=replace, id=new_id())
    with under_way("restoring"):
        done = asyncio.run(task.run(only))
    start = without_passwords(str(manifest.start))
    told = (
        f"restored {_content(done.settings, done.versions, has_ledger=bool(done.ledger))}\nstart it: {start}"
    )
    result({"restored": done, "start": start}, told, json=json)


def _content(files: int, versions: int, *, has_ledger: bool) -> str:
    text = f"{files} files, {versions} versions"
    if has_ledger:
        text += ", the ledger"
    return text


def source_of(words: tuple[str, ...], resolved: "Resolved") -> "Source":
    """Return what belongs to the server of a command line."""
    from salver.cli.server_file import find
    from salver.features.backup.creating import Source
    from salver.features.backup.manifest import StartCommand

    values = {option.key: str(option.value or "") for option in resolved.options}
    environment = {o.source: os.environ[o.source] for o in resolved.options if o.source in os.environ}
    registry = values["registry"]
    if registry and "://" not in registry:
        registry = str(Path(registry).absolute())
    artifacts = values["artifacts"]
    if artifacts and "://" not in artifacts:
        artifacts = str(Path(artifacts).absolute())

    def paths() -> Iterator[Path]:
        if (file := find(resolved.paths)) is not None:
            yield file.path
        for text in (*resolved.paths, *(values[key] for key in SETTINGS)):
            if text and "://" not in text:
                yield Path(text)

    return Source(StartCommand(str(Path.cwd()), words, environment), tuple(paths()), registry, artifacts)
