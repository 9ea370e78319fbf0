"""Whenever a push or a removal is killed: what is served is whole, and the next one is not disturbed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registries import ANN, found, open_registry
from salver.errors import NotFound
from salver.registry.names import parse
from salver.registry.records import NewVersion

#: Kills itself, as a loss of power would, at the n-th of all calls that reach the disk or the database.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from registries import ANN, found, open_registry
from salver.registry.records import NewVersion

folder, verb, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def dying(name):
    def hook(event, arguments):
        global left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "sqlite3.connect"):
            if str(folder) in str(arguments):
                left -= 1
                if left < 0:
                    os._exit(9)
    return hook

async def main():
    registry = await open_registry("sqlite", folder)
    what = found(folder.parent / "source", {"model.onnx": b"new" * 1000, "labels.txt": b"cat"})
    sys.addaudithook(dying(verb))
    if verb == "push":
        await registry.push(NewVersion("fraud", alias="champion"), what, ANN)
    else:
        await registry.remove("fraud", 2, ANN)
    await registry.ledger.close()

asyncio.run(main())
"""


def killed_at(folder: Path, verb: str, step: int) -> int:
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(folder), verb, str(step)]
    return subprocess.run(command, env=paths, timeout=100).returncode


@pytest.mark.parametrize("verb", ["push", "remove"])
async def test_a_kill_at_any_step_leaves_whole_versions_only(tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "registry"
    registry = await open_registry("sqlite", folder)
    for alias in ("champion", ""):
        await registry.push(NewVersion("fraud", alias=alias), found(tmp_path / "first"), ANN)
    await registry.ledger.close()
    outcomes = []
    for step in (0, 1, 2, 4, 6, 9, 12, 15, 18, 22, 26, 32, 40, 99):
        outcomes.append(killed_at(folder, verb, step))
        registry = await open_registry("sqlite", folder)
        faults = await registry.verify()
        assert {fault.problem for fault in faults} <= {"no such version"}, (step, faults)
        versions = await registry.versions("fraud")
        champion = await registry.version(parse("fraud@champion"))
        assert champion.number in {version.number for version in versions}
        assert len({version.number for version in versions}) == len(versions)
        await registry.ledger.close()
        if outcomes[-1] == 0 or (verb == "remove" and outcomes[-1] == 1):
            break
    assert 9 in outcomes  # it was killed in between
    assert outcomes[-1] in (0, 1)  # and in the end it was not
    registry = await open_registry("sqlite", folder)
    registry._clock = lambda: time.time() + 60  # type: ignore[method-assign]
    await registry.sweep(0.0)
    assert await registry.verify() == ()
    assert list((folder / "incoming").iterdir()) == []
    pushed = await registry.push(NewVersion("fraud", alias="champion"), found(tmp_path / "last"), ANN)
    assert (await registry.version(parse("fraud@champion"))).number == pushed.number
    if verb == "remove":
        with pytest.raises(NotFound):
            await registry.version(parse("fraud/2"))
    await registry.ledger.close()
