"""Writing and finding of snapshots (TS-B10)."""

import asyncio
import json
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S

from salver.dialects.torchserve import java_properties
from salver.dialects.torchserve.snapshots import SnapshotConfig, Snapshots, last

SETTINGS = {"inference_address": "http://127.0.0.1:8080", "job_queue_size": "7"}
MODELS = {
    "m": {"1.0": {"defaultVersion": True, "marName": "m.mar", "minWorkers": 2}, "2.0": {}},
    "n": {"1": {}},
}


class Kept:
    """Snapshots of some models, at times that go on by a millisecond."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, Any] = dict(MODELS)
        self._at = datetime(2026, 11, 26, 10, 52, 24, 252_000)
        self.snapshots = Snapshots(SnapshotConfig(str(folder), SETTINGS), lambda: self.models, self._now)

    def _now(self) -> datetime:
        self._at += timedelta(milliseconds=1)
        return self._at

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.mark.clause("TS-B10")
async def test_a_snapshot_is_the_settings_with_the_models(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "logs" / "config")
    await kept.snapshots.write("startup")
    (name,) = kept.names()
    assert name == "20261126105224253-startup.cfg"
    text = (kept.folder / name).read_text()
    assert text.startswith("#Saving snapshot\n#Thu Nov 26 10:52:24 2026\n")
    values = java_properties.parse(text.encode(), name)
    told = json.loads(values.pop("model_snapshot"))
    assert values == SETTINGS
    assert told["name"] == name
    assert told["modelCount"] == 3
    assert told["models"] == MODELS
    assert stat.S_IMODE((kept.folder / name).stat().st_mode) == 0o600


@pytest.mark.clause("TS-B10")
async def test_changes_are_written_and_many_at_once_only_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for _ in range(5):
        kept.snapshots.changed()
    await asyncio.sleep(0)
    kept.models = {}
    await kept.snapshots.close()
    assert kept.names() == ["20261126105224253-snapshot.cfg", "20261126105224254-shutdown.cfg"]


@pytest.mark.clause("TS-B10")
async def test_what_changes_while_it_is_written_is_written_too(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.snapshots.changed()
    async with asyncio.timeout(PATIENCE_S):
        while not kept.names():  # and at once after that there is a change again
            await asyncio.sleep(0)
    kept.models = {}
    kept.snapshots.changed()
    await kept.snapshots.close()
    assert len(kept.names()) == 3
    values = java_properties.parse((tmp_path / kept.names()[1]).read_bytes(), "f")
    assert json.loads(values["model_snapshot"])["models"] == {}


@pytest.mark.clause("TS-B10")
async def test_a_folder_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    await Kept(tmp_path / "file").snapshots.write("startup")
    assert "cannot be written" in caplog.text


@pytest.mark.clause("TS-B10")
def test_the_last_one_counts(tmp_path: Path) -> None:
    assert last(tmp_path / "none") is None
    for name in ("20261126105224252-startup.cfg", "20261126105719750-shutdown.cfg", "config.properties"):
        (tmp_path / name).write_text("")
    (tmp_path / ".20271126105719750-shutdown.cfg.17").write_text("half")
    assert last(tmp_path) == tmp_path / "20261126105719750-shutdown.cfg"
