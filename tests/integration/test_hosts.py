"""A model's host process is killed in the middle of a batch."""

import concurrent.futures
import os
import signal
import time

from salver.testing.process import ServerProcess
from zoo import ask_moody, infer_body


def moody_pid(server: ServerProcess) -> int:
    status, reply = ask_moody(server, "pid")
    assert status == 200, reply
    return int(reply["outputs"][0]["data"][0])


def wait_until_well(server: ServerProcess, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while ask_moody(server, "ok")[0] != 200:
        assert time.monotonic() < until, "the host was not restarted"
        time.sleep(0.05)


def test_sigkill_in_mid_batch(server: ServerProcess) -> None:
    wait_until_well(server)
    victim = moody_pid(server)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sleeping = pool.submit(ask_moody, server, "sleep 20")
        time.sleep(0.3)
        assert not sleeping.done()
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        status, reply = sleeping.result(timeout=5)
        assert time.monotonic() - killed < 3, "told at once, not after the sleep"
    assert status == 500
    assert "host process of model 'moody' died (SIGKILL" in reply["error"]
    assert "may be retried" in reply["error"]
    wait_until_well(server)
    assert moody_pid(server) != victim


def test_neighbours_do_not_notice(server: ServerProcess) -> None:
    wait_until_well(server)
    statuses: list[int] = []

    def ask_neighbour() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            statuses.append(server.post("/v2/models/mlp/infer", infer_body())[0])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        neighbour = pool.submit(ask_neighbour)
        for _ in range(2):
            time.sleep(0.3)
            os.kill(moody_pid(server), signal.SIGKILL)
            wait_until_well(server)
        neighbour.result()
    assert len(statuses) > 10
    assert set(statuses) == {200}


def test_its_children_and_memory_do_not_stay(server: ServerProcess) -> None:
    wait_until_well(server)
    processes, descriptors = len(server.family()), server.descriptors()
    for _ in range(3):
        os.kill(moody_pid(server), signal.SIGKILL)
        wait_until_well(server)
    until = time.monotonic() + 5
    while (len(server.family()), server.descriptors()) > (processes, descriptors + 3):
        assert time.monotonic() < until, (server.family(), server.descriptors())
        time.sleep(0.1)


def test_readiness_tells_the_truth_while_it_is_down(server: ServerProcess) -> None:
    """Back-off grows with deaths in a row; whatever is down meanwhile says so, and then is back."""
    wait_until_well(server)
    os.kill(moody_pid(server), signal.SIGKILL)
    wait_until_well(server)
    assert server.get("/v2/models/moody/ready")[0] == 200
    assert server.get("/v2/health/ready")[0] == 200
