"""Salver under systemd: a socket that is handed over, and messages to a real datagram socket."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import program
from waiting import until
from zoo import write_mlp

from salver.client import SyncClient
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.systemd import activation
from salver.features.systemd.activation import activated
from salver.features.systemd.notifying import Notifier, watchdog_s
from salver.testing.process import free_port
from salver.transport.server import FrontConfig, bind
from salver.words.errors import InvalidInput, Unauthenticated

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "deploy" / "systemd"
#: Changes of the units that pages show: of the socket first, then that for keys.
DROP_INS = [
    text
    for page in ("systemd.md", "configuration.md")
    for text in re.findall(
        r"```ini\n(\[(?:Service|Socket)\]\n.*?)```", (ROOT / "docs" / "how-to" / page).read_text(), re.S
    )
]
#: In place of the process id, which is known only where a test runs.
OURS = "ours"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket in the place of the first that systemd passes."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        monkeypatch.setattr(activation, "FIRST", os.dup(sock.fileno()))
        yield sock


def environment(count: str = "1", pid: str = OURS) -> dict[str, str]:
    pid = pid.replace(OURS, str(os.getpid()))
    return {"LISTEN_FDS": count, "LISTEN_PID": pid, "LISTEN_FDNAMES": "salver.socket", "PATH": "/bin"}


def test_the_passed_socket_is_the_port(passed: socket.socket) -> None:
    variables = environment()
    front = activated(FrontConfig(host="0.0.0.0", port=1), variables, os.getpid())
    assert (front.host, front.port) == passed.getsockname()
    assert variables == {"PATH": "/bin"}
    with bind(front) as sock, socket.create_connection(passed.getsockname()):
        assert sock.getsockname() == passed.getsockname() and not sock.get_inheritable()


def test_a_socket_of_another_process_is_left_alone() -> None:
    variables = environment(pid="1")
    assert activated(FrontConfig(), variables, os.getpid()) == FrontConfig()
    assert variables == {"PATH": "/bin"}


def test_a_unix_socket_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        monkeypatch.setattr(activation, "FIRST", sock.fileno())
        front = activated(FrontConfig(), environment(), os.getpid())
    assert front.path == str(tmp_path / "s")


@pytest.mark.parametrize(
    ("count", "front", "text"),
    [
        ("2", FrontConfig(), "passes 2 sockets"),
        ("", FrontConfig(), "passes  sockets"),
        ("1", FrontConfig(shares_port=True), "several fronts"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    passed: socket.socket, count: str, front: FrontConfig, text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        activated(front, environment(count), os.getpid())


def test_a_socket_that_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(activation, "FIRST", sock.fileno())
        with pytest.raises(InvalidInput, match="does not listen"):
            activated(FrontConfig(), environment(), os.getpid())
        monkeypatch.setattr(activation, "FIRST", 1 << 16)
        with pytest.raises(InvalidInput, match="no socket"):
            activated(FrontConfig(), environment(), os.getpid())


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OURS}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_for_one_process(variables: dict[str, str], seconds: float) -> None:
    variables = {name: value.replace(OURS, str(os.getpid())) for name, value in variables.items()}
    assert watchdog_s(variables, os.getpid()) == seconds
    assert variables == {}


def test_a_manager_that_is_gone_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "gone")).send("READY=1", "STATUS=x")
    assert "systemd was not told READY=1" in caplog.text


class Manager:
    """Part of systemd that reads messages."""

    def __init__(self) -> None:
        self.address = f"@salver-test-{os.getpid()}-{free_port()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:])
        self._socket.setblocking(False)
        self.told: list[str] = []

    def heard(self, text: str) -> bool:
        """Return whether a message with this text has come; then forget it and those before."""
        while True:
            try:
                self.told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                break
        for place, message in enumerate(self.told):
            if text in message:
                del self.told[: place + 1]
                return True
        return False

    def close(self) -> None:
        self._socket.close()


def command(unit: str, folder: Path) -> list[str]:
    """Return the last command of a unit, with this environment's program, and models and keys of a folder."""
    program, *words = shlex.split(re.findall(r"^ExecStart=(.+)$", unit, re.M)[-1])
    assert program == "/opt/salver/bin/salver"
    there = {"/srv/models": f"{folder}/models", "${CREDENTIALS_DIRECTORY}/keys.toml": f"{folder}/keys.toml"}
    return [str(Path(sys.executable).with_name("salver")), *(there.get(word, word) for word in words)]


def keys(folder: Path) -> str:
    """Write the file of a key as systemd hands it over, and return the key."""
    key, path = new_key(), folder / "keys.toml"
    path.write_text(written([KeyRecord("ann", "ann", hash_of(key), ("infer",))]))
    path.chmod(0o400)
    return key


@pytest.mark.parametrize("has_keys", [False, True])
def test_the_units_work_from_the_first_caller_to_the_end(tmp_path: Path, has_keys: bool) -> None:
    """As they are, and with the changes of the page for callers of other machines."""
    write_mlp(tmp_path / "models" / "mlp", 1)
    key, unit, sock = (
        keys(tmp_path),
        *((UNITS / f"salver.{kind}").read_text() for kind in ("service", "socket")),
    )
    if has_keys:
        sock, unit = sock + DROP_INS[0], unit + DROP_INS[1]
    listen = re.findall(r"^ListenStream=(.+)$", sock, re.M)[-1]
    port, manager = free_port(), Manager()
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000", "SALVER_DRAIN_DELAY": "0"}
    passing = [f"--setenv={name}" for name in (*variables, "PATH")]
    process = subprocess.Popen(
        [
            program("systemd-socket-activate"),
            *passing,
            f"--listen={listen.replace('8000', str(port))}",
            *command(unit, tmp_path),
        ],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/v2/health/live"

        def is_listening() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        until(is_listening)
        with urllib.request.urlopen(url, timeout=60) as answer:  # it waited in the socket meanwhile
            assert answer.status == 200
        until(lambda: manager.heard("READY=1\nSTATUS=1 of 1 versions ready"))
        until(lambda: manager.heard("WATCHDOG=1"))
        if has_keys:
            row, url = {"x": np.zeros((1, 16), np.float32)}, f"http://127.0.0.1:{port}"
            with SyncClient(url) as client, pytest.raises(Unauthenticated):
                client.infer("mlp", row)
            with SyncClient(url, token=key) as client:
                client.infer("mlp", row)
        process.send_signal(signal.SIGHUP)
        until(lambda: manager.heard("RELOADING=1\nMONOTONIC_USEC="))
        until(lambda: manager.heard("READY=1"))
        process.send_signal(signal.SIGTERM)
        until(lambda: manager.heard("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=60000000"))
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        manager.close()


def test_systemd_knows_each_setting(tmp_path: Path) -> None:
    """In the units and in the pages' drop-ins; of one that it does not know it only warns."""
    texts = {unit.name: unit.read_text() for unit in UNITS.iterdir()}
    for number, text in enumerate(DROP_INS):
        kind = text.partition("]")[0].removeprefix("[").lower()
        (tmp_path / f"salver.{kind}.d").mkdir(exist_ok=True)
        texts[f"salver.{kind}.d/{number}.conf"] = text
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace("/opt/salver/bin/salver", "/bin/true"))
    units = [tmp_path / unit.name for unit in UNITS.iterdir()]
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *units], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_locked_up() -> None:
    """The threshold is ten times the exposure that the page states."""
    done = subprocess.run(
        [
            program("systemd-analyze"),
            "security",
            "--offline=true",
            "--threshold=12",
            "--no-pager",
            str(UNITS / "salver.service"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-400:]
