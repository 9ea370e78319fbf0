"""A server in the background is found by its process id, and nothing else is ever signalled (TS-K1)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from salver.cli import background
from salver.words.errors import Conflict

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", SLEEP, *words], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.stdout.close()
    child.kill()
    child.wait(PATIENCE_S)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    monkeypatch.setattr(background, "_RUN", SLEEP)
    yield from process("torchserve", "--foreground")


@pytest.fixture
def others() -> Iterator[subprocess.Popen[bytes]]:
    yield from process("torchserve")


@pytest.fixture
def real() -> Iterator[subprocess.Popen[bytes]]:
    yield from process("org.pytorch.serve.ModelServer")


@pytest.mark.clause("TS-K1")
def test_a_server_of_ours_is_found_and_stopped(ours: subprocess.Popen[bytes]) -> None:
    background.note(ours.pid)
    assert background.running() == ours.pid
    assert background.stop(ours.pid)
    assert ours.wait(PATIENCE_S) == -15
    assert not background.pid_file().exists()
    assert background.running() is None


@pytest.mark.clause("TS-K1")
@pytest.mark.parametrize("text", ["", "x", "-5", "99999999999", "this process"])
def test_a_file_of_something_else_is_of_no_account(text: str) -> None:
    background.pid_file().write_text(text.replace("this process", str(os.getpid())))
    assert background.running() is None


@pytest.mark.clause("TS-K1")
def test_other_processes_are_never_signalled(others: subprocess.Popen[bytes]) -> None:
    background.note(others.pid)
    assert background.running() is None
    assert not background.stop(others.pid)
    assert others.poll() is None


@pytest.mark.clause("TS-K1")
def test_torchserve_itself_is_left_alone(real: subprocess.Popen[bytes]) -> None:
    background.note(real.pid)
    with pytest.raises(Conflict, match="is TorchServe itself"):
        background.running()
    assert not background.stop(real.pid)
    assert real.poll() is None


@pytest.mark.clause("TS-K1")
def test_a_server_that_does_not_end_is_told_of(
    ours: subprocess.Popen[bytes],
) -> None:
    assert not background.stop(ours.pid, patience=0)


@pytest.mark.clause("TS-K1")
def test_a_server_in_the_foreground_has_a_file_as_long_as_it_lasts() -> None:
    with background.noted():
        assert background.pid_file().read_text() == str(os.getpid())
    assert not background.pid_file().exists()
    with background.noted():
        background.note(1)
    assert background.pid_file().read_text() == "1"


@pytest.mark.clause("TS-K1")
def test_no_room_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(Conflict, match="cannot be written") as caught:
        background.note(1)
    assert caught.value.fix == "Set TMPDIR."
