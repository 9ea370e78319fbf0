"""When is written down what is served, and from what does a server start again (TS-B10)?

Files as TorchServe writes them, ``logs/config/<time>-startup.cfg``, ``-snapshot.cfg`` and ``-shutdown.cfg``:
the settings of the server with the models. What a model's entry says,
:mod:`salver.dialects.torchserve.model_settings` knows.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from salver.dialects.torchserve import java_properties
from salver.kernel.supervise import Supervisor

_LOG: Final = logging.getLogger("salver.snapshots")
_NAME: Final = re.compile(r"([0-9]{17})-(startup|snapshot|shutdown)\.cfg", re.ASCII)
Kind = Literal["startup", "snapshot", "shutdown"]


class SnapshotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where snapshots are kept.

    Attributes:
        folder: Takes the files.
        settings: Of the server, by key; they go into each file.
    """

    folder: str
    settings: Mapping[str, str] = {}


def last(folder: Path) -> Path | None:
    """The last snapshot of a folder; None = there is none."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return None
    return max(found, default=None)


class Snapshots:
    """Writes them.

    Args:
        models: What is served now, as in the files.
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
        """Something else is served from now on; it is written in a moment, with what follows at once."""
        self._is_stale = True
        self._tasks.start_unless_running("snapshot", self._write_changes)

    async def write(self, kind: Kind) -> None:
        """Write down what is served now. What cannot be written costs a line in the log, and nothing else."""
        at = self._now()
        name = f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}-{kind}.cfg"
        models = self._models()
        told = {
            "name": name,
            "modelCount": sum([len(versions) for versions in models.values()]),
            "created": int(at.timestamp() * 1000),
            "models": models,
        }
        values = {**self._settings, "model_snapshot": json.dumps(told, indent=2)}
        text = java_properties.written(values, ("Saving snapshot", f"{at:%a %b %d %H:%M:%S %Y}"))
        try:
            await asyncio.to_thread(self._put, name, text)
        except OSError as error:
            _LOG.error("the snapshot %s cannot be written: %s", self._folder / name, error.strerror)

    async def close(self) -> None:
        """Write the last one."""
        await self._tasks.join()
        await self.write("shutdown")

    async def _write_changes(self) -> None:
        while self._is_stale:
            await asyncio.sleep(0)
            self._is_stale = False
            await self.write("snapshot")

    def _put(self, name: str, text: str) -> None:
        """As a whole, or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f".{name}.{os.getpid()}"
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # there are passwords in it
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            fresh.replace(self._folder / name)
        finally:
            fresh.unlink(missing_ok=True)
