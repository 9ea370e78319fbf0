"""A container as Kubernetes starts it, without a cluster and without rights.

A process of another user with a read-only root, and 64 MiB each of /tmp and /dev/shm (bubblewrap). The user
is a new number each time, as OpenShift gives them: 10^9 or more, without a name.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import program
from waiting import until

import salver

_NAMESPACES = ("--unshare-user", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
_SALVER = str(Path(sys.executable).with_name("salver"))
_SMALL = ("--size", str(64 << 20), "--tmpfs")
#: The programs and their source, which a clone in /tmp would else hide.
_PROGRAMS = [
    word for path in (sys.prefix, str(Path(salver.__file__).parents[1])) for word in ("--ro-bind", path, path)
]


@contextlib.contextmanager
def limited_memory(most: int) -> Iterator[list[str]]:
    """Yield the words before a command that limit the memory of all its processes together, in bytes."""
    group, limit = Path(f"/sys/fs/cgroup/memory/salver-test-{os.getpid()}"), "memory.limit_in_bytes"
    if not group.parent.is_dir():  # control groups of version 2
        group, limit = group.parents[1] / group.name, "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(most))
    except OSError as error:
        pytest.skip(f"memory cannot be limited here: {error}")
    try:
        yield ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


class Container:
    """Salver in a container.

    Args:
        log: File of its output.
        port: Port at which it is asked; it shares this machine's address.
        args: Arguments of Salver.
        variables: Its environment.
        mounts: Options of bwrap, after those of /tmp.
        command: Gets the arguments.
        before: Words before all others, of :func:`limited_memory`.
        shares_processes: It sees processes beside its own, as in a pod with ``shareProcessNamespace``.
    """

    def __init__(
        self,
        log: Path,
        port: int,
        args: Sequence[str],
        variables: Mapping[str, str],
        mounts: Sequence[str],
        *,
        command: Sequence[str] = (_SALVER,),
        before: Sequence[str] = (),
        shares_processes: bool = False,
    ) -> None:
        self.log, self.port = log, port
        user = str(random.SystemRandom().randrange(10**9, 2**31))
        words = [program("bwrap"), *_NAMESPACES, "--uid", user, "--gid", "0", "--ro-bind", "/", "/"]
        if not shares_processes:
            words += ["--unshare-pid", "--proc", "/proc"]
        words += ["--dev", "/dev", *_SMALL, "/dev/shm", *_SMALL, "/tmp", *mounts, *_PROGRAMS]
        words += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--chdir", "/"]
        words += ["--clearenv", "--setenv", "PATH", os.environ["PATH"]]
        for name, value in variables.items():
            words += ["--setenv", name, value]
        with log.open("wb") as output:
            self.process = subprocess.Popen([*before, *words, *command, *args], stdout=output, stderr=output)

    def ask(self, path: str, document: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request, and return the status with the JSON of the answer; 0 = nobody answers."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def page(self, path: str) -> str:
        """Return a page that is no JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text()

    def terminate(self) -> int:
        """Send SIGTERM to the server, as the kubelet does, and return its exit code."""
        return self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal that ends the command, and return its exit code."""
        (server,) = psutil.Process(self.process.pid).children()
        if server.name() == "bwrap":  # the first process of a namespace of its own
            (server,) = server.children()
        server.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
