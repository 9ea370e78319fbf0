"""SIGHUP looks again at the configuration, and does not end the server."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

from waiting import PATIENCE_S, until
from zoo import infer_body, write_constant

from salver.testing.process import ServerProcess, TensorFlowServingProcess, free_port


def answers(server: ServerProcess, version: int) -> bool:
    status, reply = server.post("/v2/models/constant/infer", infer_body())
    return status == 200 and reply["model_version"] == str(version)


def test_new_versions_and_the_log_file_are_seen_without_polling(tmp_path: Path) -> None:
    root, log = tmp_path / "repository", tmp_path / "salver.log"
    write_constant(root, 1)
    options = ["--control", "none", "--log-file", str(log)]
    with ServerProcess([root], tmp_path / "out", options) as server:
        server.wait_ready()
        assert answers(server, 1)
        write_constant(root, 2)
        log.rename(tmp_path / "old.log")
        server.signal(signal.SIGHUP)
        until(lambda: log.exists() and "looked again; flags" in log.read_text())
        until(lambda: answers(server, 2))
        assert "looked again" not in (tmp_path / "old.log").read_text()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_the_model_config_file_is_read_again(tmp_path: Path) -> None:
    root, config = tmp_path / "models", tmp_path / "models.config"
    write_constant(root, 1)
    (root / "constant").rename(root / "a")

    def write(*names: str) -> None:
        each = "".join(
            f'config {{ name: "{name}" base_path: "{root}/a" model_platform: "tensorflow" }}'
            for name in names
        )
        config.write_text(f"model_config_list {{ {each} }}")

    write("a")
    with TensorFlowServingProcess(tmp_path / "out", [f"--model_config_file={config}"]) as server:
        server.wait_for("/v1/models/a")
        assert server.get("/v1/models/b")[0] == 404
        write("a", "b")
        server.signal(signal.SIGHUP)
        until(lambda: server.get("/v1/models/b")[0] == 200, server.output)


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    root, config = tmp_path / "models", tmp_path / "models.config"
    write_constant(root, 1)
    each = f'config {{ name: "a" base_path: "{root}/constant" model_platform: "tensorflow" }}'
    config.write_text(f"model_config_list {{ {each} }}")
    with TensorFlowServingProcess(tmp_path / "out", [f"--model_config_file={config}"]) as server:
        server.wait_for("/v1/models/a")
        config.write_text("model_config_list {")
        server.signal(signal.SIGHUP)
        until(lambda: "the models stay as they are" in server.output())
        assert server.get("/v1/models/a")[0] == 200


def test_a_server_whose_terminal_has_gone_ends(tmp_path: Path) -> None:
    write_constant(tmp_path / "repository", 1)
    ours, theirs = pty.openpty()
    salver = Path(sys.executable).with_name("salver")
    command = [salver, "serve", tmp_path / "repository", "--port", str(free_port())]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    os.close(theirs)
    try:
        until(lambda: "ready in" in (tmp_path / "out").read_text())
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
