"""Callers who go away while their request waits."""

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import program
from waiting import until
from zoo import ask_moody, at_work, gauge, moody_body

from salver.testing.process import ServerProcess


def count(server: ServerProcess) -> int:
    status, reply = ask_moody(server, "count")
    assert status == 200, reply
    return int(reply["outputs"][0]["data"][0])


@pytest.mark.clause("TR-R35")
@pytest.mark.parametrize("leaving", ["curl is killed", "curl gives up"])
def test_what_an_http2_caller_left_is_never_run(server: ServerProcess, leaving: str, tmp_path: Path) -> None:
    command = [program("curl"), "-sS", "--http2-prior-knowledge", f"{server.url}/v2/models/moody/infer"]
    command += ["-d", json.dumps(moody_body("ok"))]
    before = count(server)
    with at_work(server, tmp_path / "gate"):
        if "killed" in leaving:
            callers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
            until(lambda: gauge(server, "moody", "queue_depth") == 4)
            for caller in callers:
                caller.kill()
        else:
            command += ["--max-time", "0.3"]
            callers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
        for caller in callers:
            caller.communicate()
        until(lambda: gauge(server, "moody", "queue_depth") == 0)
    assert count(server) - before == 2  # what was at work and this question


def leave(server: ServerProcess, path: str, body: object, after: float) -> subprocess.CompletedProcess[bytes]:
    """Ask over HTTP/1.1, and go away."""
    command = [program("curl"), "-sS", "--http1.1", f"{server.url}{path}", "-d", json.dumps(body)]
    return subprocess.run([*command, "--max-time", str(after)], capture_output=True, check=False)


@pytest.mark.clause("TR-R35")
def test_what_an_http1_caller_left_is_never_run(server: ServerProcess, tmp_path: Path) -> None:
    before = count(server)
    with at_work(server, tmp_path / "gate"):
        callers = [
            threading.Thread(target=leave, args=(server, "/v2/models/moody/infer", moody_body("ok"), 0.3))
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        until(lambda: gauge(server, "moody", "queue_depth") == 0)
    assert count(server) - before == 2  # what was at work and this question


@pytest.mark.clause("TR-R35")
def test_who_waits_is_not_taken_for_gone(server: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = pool.map(lambda _: ask_moody(server, "sleep 0.3")[0], range(6))
        assert set(statuses) == {200}
