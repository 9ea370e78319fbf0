"""``salver backup``: back up a whole server, verify backups, and restore one."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import App, Parameter

from salver.terminal.options import Artifacts, Json, Registry
from salver.terminal.output import listed, moment, result, under_way

if TYPE_CHECKING:
    from salver.features.backup.creating import Source, Verified
    from salver.features.backup.manifest import StartCommand
    from salver.features.registry.opening import RegistryLocation

backup = App(
    name="backup",
    help="Back up a whole server, verify backups, and restore one.",
    default_parameter=Parameter(negative=()),
)
#: Settings that name files, beside those whose key ends with ``file``.
_FILES: Final = (
    "server.chat_template",
    "server.tls.cert",
    "server.tls.client_ca",
    "server.tls.key",
    "server.tokenizer",
)
_LOGS: Final = ("server.log.file", "server.trace.file")
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
    from salver.features.backup.creating import create as write
    from salver.features.backup.folder import BackupFolder
    from salver.features.registry.command_options import new_id, now
    from salver.features.registry.opening import home_of, open_registry

    source = source_of(words)
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
    from salver.features.backup.folder import BackupFolder
    from salver.features.backup.restoring import Restore
    from salver.features.registry.command_options import new_id
    from salver.features.registry.opening import home_of

    backups = BackupFolder(folder.absolute())
    manifest = backups.read(id or backups.ids()[-1])
    home: RegistryLocation | None = None
    if manifest.ledger is not None:
        registry = _absolute(registry) or manifest.registry
        if registry == manifest.registry:
            artifacts = artifacts or manifest.artifacts
        home = home_of(registry, artifacts)
    task = Restore(backups, manifest, home, replaces=replace, id=new_id())
    with under_way("restoring"):
        done = asyncio.run(task.run(only))
    start = _shown(manifest.start)
    restored = _content(done.settings, done.versions, has_ledger=bool(done.ledger))
    result({"restored": done, "start": start}, f"restored {restored}\nstart it: {start}", json=json)


def _content(files: int, versions: int, *, has_ledger: bool) -> str:
    text = f"{files} files, {versions} versions"
    if has_ledger:
        text += ", the ledger"
    return text


def _shown(start: "StartCommand") -> str:
    """Return a command line without the secrets in it."""
    from msgspec.structs import replace

    from salver.cli.config_command import without_passwords

    environment = dict(start.environment)
    for name in environment:
        if name.endswith("_HEADERS"):  # they have the keys of collectors
            environment[name] = "…"
    return without_passwords(str(replace(start, environment=environment)))


def source_of(words: tuple[str, ...]) -> "Source":
    """Return what belongs to the server of a command line.

    Args:
        words: PATHs and flags of ``salver serve``.
    """
    from salver.cli.config_command import settings
    from salver.cli.serve_options import resolve
    from salver.cli.server_file import find
    from salver.features.backup.creating import Source
    from salver.features.backup.manifest import StartCommand

    resolved = resolve(words)
    shown = list(settings(words))
    paths = [*resolved.paths, *(str(value) for key, value, _ in shown if value and _names_file(key))]
    if (file := find(resolved.paths)) is not None:
        paths.append(str(file.path))
    environment = {source: os.environ[source] for _, _, source in shown if source in os.environ}
    places = {option.key: str(option.value) for option in resolved.options}
    return Source(
        StartCommand(str(Path.cwd()), words, environment),
        [Path(path) for path in paths if "://" not in path],
        _absolute(places["registry"]),
        _absolute(places["artifacts"]),
    )


def _names_file(key: str) -> bool:
    return key in _FILES or (key.endswith("file") and key not in _LOGS)


def _absolute(place: str) -> str:
    if not place or "://" in place:
        return place
    return str(Path(place).absolute())
