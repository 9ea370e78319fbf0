"""Snapshots of what is served, from which a server starts again (TS-B10).

Files as TorchServe writes them, ``logs/config/<time>-startup.cfg``, ``-snapshot.cfg`` and ``-shutdown.cfg``:
the settings of the server with the models. :mod:`salver.dialects.torchserve.model_settings` formats the
models.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from salver.dialects.torchserve import java_properties
from salver.dialects.torchserve.tokens import write_private
from salver.kernel.supervise import Supervisor

_LOG: Final = logging.getLogger("salver.snapshots")
_NAME: Final = re.compile(r"([0-9]{17})-(startup|snapshot|shutdown)\.cfg", re.ASCII)
Kind = Literal["startup", "snapshot", "shutdown"]


class SnapshotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Place and content of snapshots.

    Attributes:
        folder: Folder of the files.
        settings: Settings of the server, by key, for each file.
    """

    folder: str
    settings: Mapping[str, str] = {}


def last(folder: Path) -> Path | None:
    """Return the last snapshot of a folder; None = none."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return None
    return max(found, default=None)


class Snapshots:
    """Writer of snapshots.

    Args:
        models: Returns what is served now, as in the files.
        now: Local time.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        models: Callable[[], Mapping[str, Mapping[str, Any]]],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._folder = Path(config.folder)
        self._settings = config.settings
        self._models = models
        self._now = now
        self._tasks = Supervisor(_LOG, "a snapshot was not written")
        self._is_stale = False

    def __repr__(self) -> str:
        return f"<Snapshots in {self._folder}>"

    def changed(self) -> None:
        """Note that something else is served, and write that soon, with further changes."""
        self._is_stale = True
        self._tasks.start_unless_running("snapshot", self._write_changes)

    async def write(self, kind: Kind) -> None:
        """Write what is served now. A file that cannot be written is logged as an error."""
        at = self._now()
        name = f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}-{kind}.cfg"
        models = self._models()
        snapshot = {
            "name": name,
            "modelCount": sum([len(versions) for versions in models.values()]),
            "created": int(at.timestamp() * 1000),
            "models": models,
        }
        values = {**self._settings, "model_snapshot": json.dumps(snapshot, indent=2)}
        text = java_properties.format_properties(values, ("Saving snapshot", f"{at:%a %b %d %H:%M:%S %Y}"))
        try:
            await asyncio.to_thread(self._put, name, text)
        except OSError as error:
            _LOG.error("the snapshot %s cannot be written: %s", self._folder / name, error.strerror)

    async def close(self) -> None:
        """Write the last snapshot."""
        await self._tasks.join()
        await self.write("shutdown")

    async def _write_changes(self) -> None:
        while self._is_stale:
            await asyncio.sleep(0)  # collects changes of the same moment in one file
            self._is_stale = False
            await self.write("snapshot")

    def _put(self, name: str, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_private(self._folder / name, text.encode())  # settings may hold passwords
