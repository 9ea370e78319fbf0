"""Whenever a push or a removal is killed: what is served is whole, and the next one is not disturbed."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registries import ANN, found, open_registry

from salver.features.registry.names import parse
from salver.features.registry.records import NewVersion
from salver.words.errors import NotFound

#: For each number that it is told, a fork kills itself, as a loss of power would, at that one of all calls to
#: the disk or the database. A process of its own for each would import for longer than it lives.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from registries import ANN, found, open_registry
from salver.features.registry.records import NewVersion

folder, verb = Path(sys.argv[1]), sys.argv[2]

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

for line in sys.stdin:
    left = int(line)
    if not (child := os.fork()):
        try:
            asyncio.run(main())
        except Exception:
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def killing(folder: Path, verb: str) -> Iterator[Callable[[int], int]]:
    """How it ended that was to be killed at a step."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(folder), verb]
    with subprocess.Popen(
        command, env=paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def killed_at(step: int) -> int:
            process.stdin.write(f"{step}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield killed_at


@pytest.mark.parametrize("verb", ["push", "remove"])
async def test_a_kill_at_any_step_leaves_whole_versions_only(tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "registry"
    registry = await open_registry("sqlite", folder)
    for alias in ("champion", ""):
        await registry.push(NewVersion("fraud", alias=alias), found(tmp_path / "first"), ANN)
    await registry.ledger.close()
    outcomes = []
    with killing(folder, verb) as killed_at:
        for step in (0, 1, 2, 4, 6, 9, 12, 15, 18, 22, 26, 32, 40, 99):
            outcomes.append(killed_at(step))
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
