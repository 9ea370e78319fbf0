"""A model's host process is killed in the middle of a batch."""

import concurrent.futures
import os
import signal
import threading
from pathlib import Path

from waiting import PATIENCE_S, until
from zoo import ask_moody, at_work, infer_body

from salver.testing.process import ServerProcess


def moody_pid(server: ServerProcess) -> int:
    status, reply = ask_moody(server, "pid")
    assert status == 200, reply
    return int(reply["outputs"][0]["data"][0])


def wait_until_well(server: ServerProcess) -> None:
    until(lambda: ask_moody(server, "ok")[0] == 200, server.output)


def kill_moody(server: ServerProcess) -> int:
    """Which process that was; it has ended, and whoever asks now is not answered by it."""
    victim = moody_pid(server)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.family())
    return victim


def test_sigkill_in_mid_batch(server: ServerProcess, tmp_path: Path) -> None:
    wait_until_well(server)
    victim = moody_pid(server)
    with at_work(server, tmp_path / "gate") as held:
        os.kill(victim, signal.SIGKILL)
        status, reply = held.result(PATIENCE_S)  # though nobody has opened the gate
    assert status == 500
    assert "host process of model 'moody' died (SIGKILL" in reply["error"]
    assert "may be retried" in reply["error"]
    wait_until_well(server)
    assert moody_pid(server) != victim


def test_neighbours_do_not_notice(server: ServerProcess) -> None:
    wait_until_well(server)
    statuses: list[int] = []

    over = threading.Event()

    def ask_neighbour() -> None:
        while not over.is_set():
            statuses.append(server.post("/v2/models/mlp/infer", infer_body())[0])

    def goes_on() -> None:
        before = len(statuses)
        until(lambda: len(statuses) > before + 5)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        neighbour = pool.submit(ask_neighbour)
        try:
            goes_on()
            for _ in range(2):
                kill_moody(server)
                goes_on()
                wait_until_well(server)
        finally:
            over.set()
        neighbour.result()
    assert set(statuses) == {200}


def test_its_children_and_memory_do_not_stay(server: ServerProcess) -> None:
    wait_until_well(server)
    processes, descriptors = len(server.family()), server.descriptors()
    for _ in range(3):
        kill_moody(server)
        wait_until_well(server)
    until(
        lambda: len(server.family()) <= processes and server.descriptors() <= descriptors + 3,
        lambda: (server.family(), server.descriptors()),
    )


def test_readiness_tells_the_truth_while_it_is_down(server: ServerProcess) -> None:
    """Back-off grows with deaths in a row; whatever is down meanwhile says so, and then is back."""
    wait_until_well(server)
    kill_moody(server)
    wait_until_well(server)
    assert server.get("/v2/models/moody/ready")[0] == 200
    assert server.get("/v2/health/ready")[0] == 200
