"""Callers who go away while their request waits."""

import json
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from salver.testing.process import ServerProcess
from zoo import ask_moody, moody_body


def count(server: ServerProcess) -> int:
    status, reply = ask_moody(server, "count")
    assert status == 200, reply
    return int(reply["outputs"][0]["data"][0])


@pytest.mark.parametrize("leaving", ["curl is killed", "curl gives up"])
def test_tr_r35_what_an_http2_caller_left_is_never_run(server: ServerProcess, leaving: str) -> None:
    program = shutil.which("curl")
    assert program
    command = [program, "-sS", "--http2-prior-knowledge", f"{server.url}/v2/models/moody/infer"]
    command += ["-d", json.dumps(moody_body("ok")), "--max-time", "30" if "killed" in leaving else "0.3"]
    before = count(server)
    sleeper = threading.Thread(target=ask_moody, args=(server, "sleep 1.2"))
    sleeper.start()
    time.sleep(0.2)
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    time.sleep(0.3)
    for caller in callers:
        if "killed" in leaving:
            caller.kill()
        caller.communicate()
    sleeper.join()
    assert count(server) - before == 2  # the sleeper and this question


def leave(server: ServerProcess, path: str, body: object, after: float) -> subprocess.CompletedProcess[bytes]:
    """Ask over HTTP/1.1, and go away."""
    program = shutil.which("curl")
    assert program
    command = [program, "-sS", "--http1.1", f"{server.url}{path}", "-d", json.dumps(body)]
    return subprocess.run([*command, "--max-time", str(after)], capture_output=True, check=False)


def test_tr_r35_what_an_http1_caller_left_is_never_run(server: ServerProcess) -> None:
    before = count(server)
    sleeper = threading.Thread(target=ask_moody, args=(server, "sleep 2.5"))
    sleeper.start()
    time.sleep(0.2)
    callers = [
        threading.Thread(target=leave, args=(server, "/v2/models/moody/infer", moody_body("ok"), 0.3))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for thread in (*callers, sleeper):
        thread.join()
    assert count(server) - before == 2  # the sleeper and this question


def test_tr_r35_who_waits_is_not_taken_for_gone(server: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = pool.map(lambda _: ask_moody(server, "sleep 0.3")[0], range(6))
        assert set(statuses) == {200}
