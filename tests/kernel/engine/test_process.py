"""Host processes: answers, failures, deaths, restarts, and that nothing is left behind."""

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import uvloop
from host_backends import CODES
from host_processes import MANIFEST, OTHERS, all_children, at_once, children, nothing_left, recovery
from soaking import size
from waiting import auntil, until

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.process import ProcessRunner, Recovery
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import HostDied, InvalidInput, InvalidOutput, LoadFailed, ModelFailed, NotReady
from salver.words.tensor import Array

ROW = np.array([[1.5, 2.0]], "f4")


class Gate:
    """A pause that ends when the test says so, and remembers how long it was to be."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.open = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.open.wait()


@asynccontextmanager
async def running(
    backend: str = "Good",
    manifest: Manifest = MANIFEST,
    *,
    slots: int = 1,
    memory_limit_mb: int = 0,
    run_timeout_s: float = 0.0,
    revive: Recovery | None = None,
) -> AsyncIterator[ProcessRunner]:
    runner = await ProcessRunner.start(
        f"host_backends:{backend}",
        manifest,
        LoadOptions(threads=1),
        slots=slots,
        memory_limit_mb=memory_limit_mb,
        run_timeout_s=run_timeout_s,
        recovery=revive or recovery(at_once),
    )
    try:
        yield runner
    finally:
        await runner.close()


async def ask(runner: ProcessRunner, first: float = 1.5) -> Array:
    outputs, seconds = await runner.run({"x": np.array([[first, 2.0]], "f4")})
    assert seconds >= 0
    return outputs["y"]


@pytest.fixture(autouse=True)
def _others() -> None:
    """Children that other tests of this process left running (servers of a whole session) do not count."""
    OTHERS.clear()
    OTHERS.update(all_children())


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


async def test_answers_with_the_models_outputs() -> None:
    async with running() as runner:
        assert runner.signature.platform == "test"
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]
        assert runner.run_inline({"x": ROW}) is None
        assert repr(runner) == "<ProcessRunner m:7, 1 of 1 hosts alive>"


async def test_outputs_survive_the_next_run() -> None:
    async with running() as runner:
        first = await ask(runner, 1.0)
        await ask(runner, 5.0)
        assert first.tolist() == [[2.0, 4.0]]


async def test_a_backend_may_be_an_instance() -> None:
    async with running("INSTANCE") as runner:
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_the_manifest_arrives_whole(tmp_path: Path) -> None:
    manifest = Manifest(MANIFEST.id, tmp_path, "f", "b", ModelConfig(options={"k": "v"}))
    async with running("ManifestTeller", manifest) as runner:
        assert runner.signature.platform == f"{tmp_path!r} {{'k': 'v'}} 1"


async def test_batches_beyond_the_first_segment_and_back() -> None:
    async with running() as runner:
        for rows in (1, 500_000, 3, 1_200_000, 0):
            x = np.arange(2 * rows, dtype="f4").reshape(rows, 2)
            outputs, _ = await runner.run({"x": x})
            assert np.array_equal(outputs["y"], x * 2)


async def test_every_kind_of_array_crosses() -> None:
    given = {
        "text": np.array([[b"", b"a\x00b"], ["ü".encode(), b"x" * 3_000_000]], dtype=object),
        "none": np.empty((0, 4), dtype=object),
        "scalar": np.array(3.5),
        "bool": np.array([True, False]),
        "half": np.array([1, np.inf, np.nan], "f2"),
        "wide": np.array([2**64 - 1], "u8"),
        "strided": np.arange(12, dtype="i4").reshape(3, 4).T,
        "empty": np.empty((2, 0, 3), "f8"),
    }
    async with running("Echo") as runner:
        outputs, _ = await runner.run(given)
        for name, array in given.items():
            assert outputs[name].dtype == array.dtype
            assert outputs[name].shape == array.shape
            assert outputs[name].tobytes() == array.tobytes() if array.dtype != object else True
            if array.dtype == object:
                assert outputs[name].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("mischief", "kind", "text"),
    [
        ("raise", ModelFailed, "model 'm' raised ValueError: no such row"),
        ("refuse", InvalidInput, "text is empty (at inputs[0]). Send some."),
        ("soft_exit", ModelFailed, "model 'm' raised SystemExit: 3"),
        ("complex", InvalidOutput, "output 'y' is no tensor: no tensor datatype holds numpy's complex128"),
        ("write_input", ModelFailed, "model 'm' raised ValueError: assignment destination is read-only"),
    ],
)
async def test_a_model_that_raises_keeps_its_host(mischief: str, kind: type[Exception], text: str) -> None:
    async with running() as runner:
        pids = runner.pids
        with pytest.raises(kind) as caught:
            await ask(runner, CODES[mischief])
        assert str(caught.value) == text
        assert type(caught.value) is kind
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]
        assert runner.pids == pids


async def test_out_of_memory_is_said_and_survived() -> None:
    async with running(memory_limit_mb=4096) as runner:
        with pytest.raises(ModelFailed, match=r"'m' ran out of memory: .* 4096 MiB .*\.memory_limit_mb"):
            await ask(runner, CODES["eat_memory"])
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("mischief", "how"),
    [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("hard_exit", "exit code 3")],
)
async def test_a_host_that_dies_in_a_run_fails_it_at_once_and_comes_back(mischief: str, how: str) -> None:
    gate = Gate()
    async with running(revive=recovery(gate.sleep)) as runner:
        with pytest.raises(HostDied) as caught:
            await ask(runner, CODES[mischief])
        assert str(caught.value) == (
            f"the host process of model 'm' died ({how}); the request was not answered and may be retried"
        )
        await auntil(lambda: gate.asked == [0.1])
        with pytest.raises(NotReady, match=r"'m' died and is restarting \(next attempt in 0.1 s\)"):
            await ask(runner)
        gate.open.set()
        await auntil(lambda: bool(runner.pids))
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_a_host_that_dies_idle_comes_back() -> None:
    async with running() as runner:
        before = runner.pids
        os.kill(before[0], signal.SIGKILL)
        await auntil(lambda: runner.pids not in ([], before))
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_the_other_host_does_not_notice() -> None:
    gate = Gate()
    async with running(slots=2, revive=recovery(gate.sleep)) as runner:
        slow = asyncio.ensure_future(ask(runner, CODES["echo_later"]))
        await asyncio.sleep(0)
        with pytest.raises(HostDied):
            await ask(runner, CODES["kill"])
        waits = asyncio.ensure_future(ask(runner))  # for the one that lives
        assert (await slow).shape == (1, 2)
        assert (await waits).tolist() == [[3.0, 4.0]]
        assert len(runner.pids) == 1
        gate.open.set()
        await auntil(lambda: len(runner.pids) == 2)


async def test_those_who_wait_are_told_when_the_last_host_dies() -> None:
    gate = Gate()
    async with running(revive=recovery(gate.sleep)) as runner:
        dying = asyncio.ensure_future(ask(runner, CODES["kill"]))
        await asyncio.sleep(0)
        waits = asyncio.ensure_future(ask(runner))
        results = await asyncio.gather(dying, waits, return_exceptions=True)
        assert [type(result) for result in results] == [HostDied, NotReady]


async def test_a_hang_is_ended_by_the_run_timeout() -> None:
    async with running(run_timeout_s=1.5) as runner:
        with pytest.raises(HostDied, match=r"died \(SIGKILL: a run did not end within 1.5 s\)"):
            await ask(runner, CODES["hang"])
        await auntil(lambda: bool(runner.pids))
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("mischief", "how"),
    [
        ("close_control", "it closed its control channel"),
        ("forge", "it broke the control protocol: a frame of"),
    ],
)
async def test_nonsense_on_the_control_channel_ends_the_host(mischief: str, how: str) -> None:
    async with running() as runner:
        with pytest.raises(HostDied, match=f"SIGKILL: {how}"):
            await ask(runner, CODES[mischief])
        await auntil(lambda: bool(runner.pids))
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_a_given_up_run_does_not_free_its_host() -> None:
    async with running() as runner:
        slow = asyncio.ensure_future(ask(runner, CODES["echo_later"]))
        await asyncio.sleep(0.02)
        slow.cancel()
        waits = asyncio.ensure_future(ask(runner))
        given_up = asyncio.ensure_future(ask(runner))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await waits).tolist() == [[3.0, 4.0]]
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_what_the_model_prints_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="salver.engine")
    async with running() as runner:
        assert (await ask(runner, CODES["chatter"]))[0, 1] == 2.0
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]
    assert {
        "[m:7] a line of the model",
        "[m:7] anotherÿ, not UTF-8 \\udcff",
        "[m:7] \x00\x01\x02\\xff raw bytes",
        "[m:7] closed politely",
    } <= set(caplog.messages)
    assert "oneDNN" not in caplog.text


async def test_threads_of_numeric_libraries_follow_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    async with running() as runner:
        assert (await ask(runner, CODES["environment"]))[0, 0] == 1.0


async def test_what_the_model_started_dies_with_it() -> None:
    async with running() as runner:
        nephew, host = map(int, (await ask(runner, CODES["nephew"]))[0])
        assert is_running(nephew)
        os.kill(host, signal.SIGKILL)
        await auntil(lambda: not is_running(nephew))


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("Raises", "model 'm' could not be loaded: RuntimeError: weights are missing"),
        ("Refuses", "option 'x' is unknown (at options.x). Remove it."),
        ("Misses", "pip install 'salver[onnx]'"),
        ("NoSuchClass", "model 'm' could not be loaded: AttributeError"),
        ("EatsMemoryAtLoad", "model 'm' ran out of memory while loading"),
    ],
)
async def test_a_load_that_fails_says_why(backend: str, text: str) -> None:
    async with nothing_left():
        with pytest.raises(LoadFailed) as caught:
            async with running(backend, slots=2):
                pass
        assert text in str(caught.value)


@pytest.mark.usefixtures("executed_hosts")
async def test_a_load_that_crashes_brings_the_last_words() -> None:
    with pytest.raises(
        LoadFailed, match=r"(?s)'m' died \(SIGABRT\) while loading it; it said:.*shape\.ok\(\)"
    ):
        async with running("Crashes"):
            pass
    assert children() == []


@pytest.mark.usefixtures("executed_hosts")
async def test_a_load_can_be_given_up() -> None:
    async with nothing_left():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), running("NeverLoads", slots=2):
                pass


@contextmanager
def descriptors_left(spare: int) -> Iterator[None]:
    """Only so many more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    fillers = []
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(fillers.pop())
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("spare", range(11))
@pytest.mark.usefixtures("executed_hosts")
async def test_a_start_without_enough_descriptors_keeps_none(spare: int) -> None:
    async with nothing_left():
        with (
            pytest.raises(LoadFailed, match=r"^no host process could be started for model 'm': .*open files"),
            descriptors_left(spare),
        ):
            async with running():
                pass


async def test_failed_restarts_back_off(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            flag.unlink()

    manifest = Manifest(MANIFEST.id, flag, "f", "b")
    async with running("LoadsOnce", manifest, revive=recovery(sleep)) as runner:
        flag.touch()
        with pytest.raises(HostDied):
            await ask(runner, CODES["kill"])
        await auntil(lambda: bool(runner.pids))
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])
        assert (await ask(runner)).tolist() == [[3.0, 4.0]]


async def test_a_host_that_was_well_for_long_starts_the_count_anew() -> None:
    now = 0.0
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with running(revive=recovery(sleep, lambda: now)) as runner:
        for lived in (1.0, 1.0, 1.0, 100.0):
            now += lived
            with pytest.raises(HostDied):
                await ask(runner, CODES["kill"])
            await auntil(lambda: bool(runner.pids))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.1])


async def test_closing_waits_for_the_run_under_way() -> None:
    async with running() as runner:
        slow = asyncio.ensure_future(ask(runner, CODES["echo_later"]))
        await asyncio.sleep(0.02)
        await runner.close()
        assert (await slow).shape == (1, 2)
        with pytest.raises(NotReady):
            await ask(runner)
    assert children() == []


async def test_an_answer_that_comes_with_the_exit_of_its_host_is_given() -> None:
    loop = asyncio.get_running_loop()
    async with running() as runner:
        (seat,) = runner._seats
        control = seat.host._ends.sock
        loop.remove_reader(control.fileno())  # as if the loop were busy until both are there
        asked = asyncio.ensure_future(ask(runner))
        await asyncio.sleep(0)
        await asyncio.to_thread(select.select, [control], [], [])
        os.kill(runner.pids[0], signal.SIGKILL)
        assert (await asked).tolist() == [[3.0, 4.0]]
    assert children() == []


async def test_a_host_that_will_not_stop_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.kernel.engine.child.GRACE_S", 0.05)
    monkeypatch.setattr("salver.kernel.engine.child.TERM_S", 0.05)
    async with running("ClosesBadly"):
        pass
    assert children() == []


async def test_closing_while_a_host_restarts() -> None:
    gate = Gate()
    async with running(revive=recovery(gate.sleep)) as runner:
        with pytest.raises(HostDied):
            await ask(runner, CODES["kill"])
    assert children() == []


@pytest.mark.soak
async def test_nothing_is_left_behind_by_many_lives() -> None:
    async with nothing_left():
        for life in range(size(30, 6)):
            async with running() as runner:
                assert (await ask(runner)).tolist() == [[3.0, 4.0]]
                if life % 3 == 0:
                    with pytest.raises(HostDied):
                        await ask(runner, CODES["kill"])
                elif life % 3 == 1:
                    os.kill(runner.pids[0], signal.SIGKILL)


def test_the_servers_own_event_loop_will_do() -> None:
    async def live_and_die() -> None:
        async with nothing_left(), running(slots=2) as runner:
            with pytest.raises(HostDied):
                await ask(runner, CODES["kill"])
            assert (await ask(runner)).tolist() == [[3.0, 4.0]]
            await auntil(lambda: len(runner.pids) == 2)
            x = np.ones((500_000, 2), "f4")
            assert (await runner.run({"x": x}))[0]["y"].sum() == 2_000_000

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(live_and_die())


_ORPHAN = """
import asyncio, os, signal, sys
sys.path[:0] = {paths!r}
from test_process import running
async def main():
    async with running() as runner:
        print(runner.pids[0], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_a_host_dies_with_its_parent() -> None:
    script = _ORPHAN.format(paths=sys.path)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        host = int(parent.stdout.readline())
    until(lambda: not is_running(host))
