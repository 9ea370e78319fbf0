"""Hosts that are forked: alike executed ones, and independent of the process that forked them."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_backends import CODES, WASTE, Good
from host_processes import MANIFEST, at_once, nothing_left, recovery
from msgspec.structs import replace
from waiting import PATIENCE_S, auntil, until

from salver.backends.litert import LiteRtBackend
from salver.backends.protocol import LoadOptions
from salver.backends.source import forkable_imports
from salver.kernel.engine import fork_client
from salver.kernel.engine.fork_client import ForkServers
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.serving.loading import Terms
from salver.words.artifacts import Instances, Manifest, ModelConfig
from salver.words.errors import HostDied, LoadFailed
from salver.words.messages import ModelId

NUMPY = ("numpy",)


@contextlib.asynccontextmanager
async def forking() -> AsyncIterator[ForkServers]:
    """Fork servers, and nothing of them left at the end."""
    async with nothing_left():
        servers = ForkServers()
        yield servers
        await servers.close()


async def started(
    servers: ForkServers,
    backend: str = "host_backends:Good",
    manifest: Manifest = MANIFEST,
    names: tuple[str, ...] = NUMPY,
    *,
    slots: int = 1,
    threads: int = 1,
) -> ProcessRunner:
    starter = functools.partial(servers.start, names=names)
    return await ProcessRunner.start(
        backend, manifest, LoadOptions(threads), slots=slots, starter=starter, recovery=recovery(at_once)
    )


async def double(runner: ProcessRunner, first: float = 1.5) -> list[float]:
    outputs, _ = await runner.run({"x": np.array([[first, 2.0]], "f4")})
    found: list[float] = outputs["y"].ravel().tolist()
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_what_a_load_has_freed_is_given_back() -> None:
    async with forking() as servers:
        runner = await started(servers, "host_backends:Wasteful")
        assert own_bytes(runner.pids[0]) < WASTE // 2
        await runner.close()


def own_bytes(pid: int) -> int:
    sizes = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    return int(sizes[sizes.index("Private_Dirty:") + 1]) << 10


async def test_hosts_are_children_of_the_server_and_of_one_set_of_imports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with forking() as servers:
        two = await started(servers, slots=2)
        for name in ("SET_BY_A_FRAMEWORK", "ORT_DISABLE_TELEMETRY", "OMP_NUM_THREADS"):
            monkeypatch.setenv(name, "1")
        other = await started(servers)
        assert [await double(runner) for runner in (two, other)] == [[3.0, 4.0], [3.0, 4.0]]
        hosts = [*two.pids, *other.pids]
        assert len(set(hosts)) == 3 and {parent(pid) for pid in hosts} == {os.getpid()}
        assert {os.getsid(pid) for pid in hosts} == set(hosts)  # groups of their own
        assert len(servers.pids) == 1
        threaded = await started(servers, threads=2)  # libraries read that number when they are imported
        assert len(servers.pids) == 2
        for runner in (two, other, threaded):
            await runner.close()


async def test_a_fork_server_that_dies_costs_the_next_start_alone() -> None:
    async with forking() as servers:
        first = await started(servers)
        (killed,) = servers.pids
        os.kill(killed, signal.SIGKILL)
        await auntil(lambda: not servers.pids)
        assert await double(first) == [3.0, 4.0]
        with pytest.raises(HostDied, match="SIGKILL"):
            await double(first, CODES["kill"])  # its end is known though its parent is gone
        await auntil(lambda: bool(first.pids))
        assert servers.pids and killed not in servers.pids
        assert await double(first) == [3.0, 4.0]
        await first.close()


BAD = """
import os, threading, time

def die():
    os._exit(9)

def start_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

def fail():
    raise OSError("no such device")

def killed():
    fork = os.fork
    def once():
        pid = fork()
        if not pid:
            os.kill(os.getpid(), 9)
        return pid
    os.fork = once
"""


@pytest.mark.parametrize(
    ("name", "why"), [("die", "ended with exit code 9"), ("start_thread", "have started 1 threads")]
)
async def test_a_host_is_executed_where_none_can_be_forked(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad_imports.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with forking() as servers:
        with caplog.at_level(logging.WARNING):
            runner = await started(servers, names=(f"bad_imports:{name}",))
        assert await double(runner) == [3.0, 4.0]
        assert [why in record.message and "executed" in record.message for record in caplog.records] == [True]
        await auntil(lambda: not servers.pids)  # one that said why not ends by itself
        await runner.close()


async def test_a_fork_that_is_killed_at_once_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "FORK_S", PATIENCE_S)
    (tmp_path / "bad_imports.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with forking() as servers:
        with caplog.at_level(logging.WARNING):
            runner = await started(servers, names=("bad_imports:killed",))
        assert await double(runner) == [3.0, 4.0] and servers.pids
        assert ["before it had forked" in record.message for record in caplog.records] == [True]
        await runner.close()


async def test_a_fork_that_takes_longer_than_another_one_is_adopted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with forking() as servers:
        runners = [await started(servers)]
        (slow,) = servers.pids
        os.kill(slow, signal.SIGSTOP)
        starting = asyncio.ensure_future(started(servers))
        with caplog.at_level(logging.WARNING):
            runners.append(await started(servers, threads=2))  # by another fork server
            os.kill(slow, signal.SIGCONT)
            runners.append(await starting)
        assert [parent(pid) for each in runners for pid in each.pids] == [os.getpid()] * 3
        assert not caplog.records
        for runner in runners:
            await runner.close()


@pytest.mark.usefixtures("executed_hosts")
async def test_a_fork_that_is_no_child_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "adopting", contextlib.nullcontext)
    async with forking() as servers:
        with caplog.at_level(logging.WARNING):
            runner = await started(servers)
        assert await double(runner) == [3.0, 4.0]
        assert ["keeps orphans" in record.message for record in caplog.records] == [True]
        await runner.close()


async def test_an_import_that_fails_is_left_to_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_imports.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with forking() as servers:
        runner = await started(servers, names=("bad_imports:fail", "no_such_module"))
        assert await double(runner) == [3.0, 4.0] and servers.pids
        await runner.close()
        with pytest.raises(LoadFailed, match=r"pip install 'salver\[onnx\]'"):
            await started(servers, "host_backends:Misses")


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    async with forking() as servers:
        await (await started(servers)).close()
        for turns in range(12):  # at each await of a start
            starting = asyncio.ensure_future(started(servers))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        runner = await started(servers)
        assert await double(runner) == [3.0, 4.0]
        await runner.close()


async def test_a_fork_server_without_hosts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_client, "IDLE_S", 0.01)
    async with forking() as servers:
        runner = await started(servers)
        (pid,) = servers.pids
        await asyncio.sleep(0.05)
        assert servers.pids == [pid]  # it has a host
        await runner.close()
        await auntil(lambda: not servers.pids)
        runner = await started(servers)
        assert await double(runner) == [3.0, 4.0]
        await runner.close()


RANDOM = """
import random
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, inputs):
        return {"y": np.array([np.random.random(), random.random()])}
"""


async def test_forks_draw_numbers_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(RANDOM)
    manifest = Manifest(ModelId("random", "1"), tmp_path / "model.py", "python", "python")
    async with forking() as servers:
        drawn = []
        for _ in range(2):
            runner = await started(
                servers, "salver.backends.python:PythonBackend", manifest, ("numpy", "numpy.random")
            )
            outputs, _ = await runner.run({"x": np.zeros(2, "f4")})
            drawn += outputs["y"].tolist()
            await runner.close()
        assert len(set(drawn)) == 4


ENDING = """
import atexit, sys
from salver.kernel.engine import fork_server, host

class Freed:
    def __del__(self):
        sys.__stdout__.write("freed ")

def main(arguments):
    {how}

sys.modules["kept"] = Freed()
atexit.register(lambda: print("left", end=" "))
host.main = main
{end}
"""


@pytest.mark.parametrize(
    ("how", "end", "said", "status"),
    [
        ("return 0", "fork_server._host([])", "left ", 0),
        ("return 4", "fork_server._host([])", "left ", 4),
        ("sys.exit()", "fork_server._host([])", "left ", 0),
        ("sys.exit(3)", "fork_server._host([])", "left ", 3),
        ("raise KeyError('x')", "fork_server._host([])", "left ", 1),
        ("return 0", "sys.exit(host.main([]))", "left freed ", 0),  # as an executed host does
    ],
)
def test_a_fork_ends_without_freeing_what_it_shares(how: str, end: str, said: str, status: int) -> None:
    """Freeing writes to objects, so that the process would copy all that it shares, for a moment."""
    code = ENDING.format(how=how, end=end)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == (said, status), ended.stderr
    assert ("KeyError: 'x'" in ended.stderr) == ("raise" in how)


ORPHANS = """
import asyncio, functools, os, signal, sys
from salver.backends.protocol import LoadOptions
from salver.kernel.engine.fork_client import ForkServers
from salver.kernel.engine.process import ProcessRunner
from host_processes import MANIFEST

async def main():
    servers = ForkServers()
    start = functools.partial(servers.start, names=("numpy",))
    runner = await ProcessRunner.start("host_backends:Good", MANIFEST, LoadOptions(), starter=start)
    print(*runner.pids, *servers.pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_forked_hosts_end_with_the_server() -> None:
    support = str(Path(__file__).parents[2] / "support")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ORPHANS)],
        env=os.environ | {"PYTHONPATH": support},
        capture_output=True,
        text=True,
    )
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 2, done.stderr
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))


def test_the_rule_who_is_forked() -> None:
    manifest = Manifest(ModelId("m", "1"), Path("/nowhere.tflite"), "tflite", "litert")

    def is_forked(backend: Any, **fields: Any) -> bool:
        return Terms(1, forks=ForkServers()).starter(backend, replace(manifest, **fields)) is not None

    assert is_forked(LiteRtBackend())
    assert is_forked(LiteRtBackend(), brought="config")
    assert not is_forked(LiteRtBackend(), brought="files")
    assert not is_forked(LiteRtBackend(), brought="path")
    assert not is_forked(LiteRtBackend(), config=ModelConfig(instances=Instances(forks=False)))
    assert not is_forked(Good())
    assert Terms(1).starter(LiteRtBackend(), manifest) is None


def test_a_program_says_at_its_top_what_may_be_imported_for_it(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(
        "import os, numpy as np\nimport torch.nn\nfrom sklearn.svm import SVC\nimport requests\n"
        "from . import tensorflow\n\ndef later():\n    import xgboost\n"
    )
    assert forkable_imports(file) == ("numpy", "sklearn", "torch")
    assert forkable_imports(tmp_path / "missing.py") == ()
    file.write_text("this is no Python\n")
    assert forkable_imports(file) == ()
