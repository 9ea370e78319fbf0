"""Check images of salver build: how large they are, and that they run wherever a cluster puts them.

Builds the flavour core and an image of the demo's ONNX model with buildah, on a Debian made by mmdebstrap, so
that no registry is needed. Podman runs the second under each of the limits below and under all of them, and
bwrap runs its files as a user without rights. Each run answers the demo's questions over HTTP and gRPC and
ends by SIGTERM. Where podman cannot run containers, only bwrap does. Needs root.

    PYTHONPATH=examples/demo python scripts/image_check.py
    PYTHONPATH=examples/demo python scripts/image_check.py --keep DIR   # leaves the images there
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import tritonclient.grpc as triton
from build import filetype
from image_store import BASE, Store
from questions import Asked, files

from salver.client import Client
from salver.testing.process import free_port
from salver.words.sizes import told_bytes

#: The most that a flavour may have, as a registry sends it.
_MOST_MB: Final = {"core": 150, "onnx": 170}
_PATIENCE_S: Final = 120
_SERVE: Final = ("serve", "/models/repository", "--allow-anonymous", f"--drain-delay={_PATIENCE_S}")
#: Containers that run at the same time.
_AT_ONCE: Final = 2


class Limit(NamedTuple):
    """A limit as podman sets it, and an expression of Python that is true within it."""

    words: tuple[str, ...]
    holds: str


_MEMORY: Final = 768 << 20
_DOCTOR: Final = "os.popen('salver doctor --json').read()"
_GROUPS: Final = "768 MiB of memory, one core"
LIMITS: Final = {
    "random user without rights": Limit(
        ("--user=47123:0", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        "os.getuid() == 47123 and 'NoNewPrivs:\\t1' in open('/proc/self/status').read()",
    ),
    "read-only root": Limit(
        ("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,size=64m,mode=1777"),
        "os.statvfs('/').f_flag & os.ST_RDONLY",
    ),
    # --shm-size makes a read-only /dev/shm beside --read-only-tmpfs=false.
    "64 MiB of /dev/shm": Limit(
        ("--mount=type=tmpfs,destination=/dev/shm,tmpfs-size=64m,tmpfs-mode=1777",),
        "os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize == 64 << 20",
    ),
    _GROUPS: Limit(
        (f"--memory={_MEMORY}", f"--memory-swap={_MEMORY}", "--cpus=1", "--pids-limit=256"),
        f"all(each in {_DOCTOR} for each in ('{told_bytes(_MEMORY)}', '1 usable'))",
    ),
}


def without_rights(files: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs an image's files as a user without rights, in a user namespace.

    The store is root's, so root mounts the files where the user finds them.
    """
    user = "--reuid=47123 --regid=47123 --clear-groups --no-new-privs"
    mounted = f'mount --bind "$0" /mnt && exec setpriv {user} "$@"'
    small = ("--size", str(64 << 20), "--tmpfs")
    return [
        *("unshare", "--mount", "sh", "-c", mounted, files, "prlimit", f"--data={_MEMORY}"),
        *("bwrap", "--unshare-all", "--unshare-user", "--share-net", "--uid", "47123", "--gid", "0"),
        *("--ro-bind", "/mnt", "/", "--proc", "/proc", "--dev", "/dev", *small, "/dev/shm", *small, "/tmp"),
        *("--remount-ro", "/", "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv"),
        *("--setenv", "PATH", "/opt/salver/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp"),
        *("--setenv", "USER", "salver", "--setenv", "SALVER_HOST", "0.0.0.0", *command),
    ]


def within(*limits: Limit) -> list[str]:
    """Return the command that succeeds within limits."""
    held = " and ".join(f"({limit.holds})" for limit in limits)
    return ["python3", "-c", f"import os, sys\nif not ({held}): sys.exit({held!r} + ' does not hold')"]


class OverGrpc(Asked):
    """Asks as Triton's client does."""

    def __init__(self, client: Client, model: str, port: int) -> None:
        super().__init__(client, model)
        self._triton = triton.InferenceServerClient(f"127.0.0.1:{port}")

    async def __call__(self, values: Any) -> list[Any]:
        described = self._triton.get_model_metadata("filetype")
        (given,), (output,) = described.inputs, described.outputs
        tensor = triton.InferInput(given.name, values.shape, given.datatype)
        tensor.set_data_from_numpy(values)
        started = time.perf_counter()
        answer = self._triton.infer("filetype", [tensor]).as_numpy(output.name)
        self.times.append((time.perf_counter() - started) * 1e3)
        return [answer]


async def ask(port: int) -> None:
    """Put the demo's questions to the model over HTTP and gRPC."""
    async with Client(f"http://127.0.0.1:{port}") as client:
        for asked in (Asked(client, "filetype"), OverGrpc(client, "filetype", port)):
            answer = await files(asked)
            if not answer.is_right:
                raise SystemExit(f"the image's server answers wrongly: {answer}")


def is_ready(port: int) -> bool:
    """Ask whether the server is ready."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
    except OSError:
        return False
    return True


def wait_for(found: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str) -> None:
    """Wait until something is true of a running server."""
    end = time.monotonic() + _PATIENCE_S
    while not found():
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"the image's server is not {what}")
        time.sleep(0.1)


def check(process: "subprocess.Popen[bytes]", port: int, stop: Callable[[], object]) -> None:
    """Ask the server, also while it drains, and wait for its end."""
    wait_for(lambda: is_ready(port), process, "ready")
    asyncio.run(ask(port))
    stop()
    wait_for(lambda: not is_ready(port), process, "draining")
    asyncio.run(ask(port))
    stop()  # a second signal ends the delay
    if code := process.wait(_PATIENCE_S):
        raise SystemExit(f"the image's server ended with {code}")


def _innermost(pid: int) -> None:
    """Send SIGTERM to the process below the ones that bwrap starts."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def folder_of(keep: Path | None) -> Iterator[Path]:
    """Yield a folder that is removed afterwards, unless it is to be kept."""
    if keep is not None:
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="salver-image-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def flavour(store: Store, extras: str, context: Path, *models: Path) -> str:
    """Build a flavour, print its size, and return its image."""
    salver = Path(sys.executable).with_name("salver")
    subprocess.run(
        [salver, "build", *models, "--output", context, f"--extras={extras}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    name = extras or "core"
    image = f"localhost/salver-{name}"
    store.build(image, context, f"--build-arg=BASE={BASE}")
    size, most = store.compressed_mb(image), _MOST_MB[name]
    print(f"{name}: {size:.1f} MB compressed, budget {most}", flush=True)
    if size > most:
        raise SystemExit(f"the image has more than {most} MB")
    return image


def run_by_podman(store: Store, image: str, *limits: Limit) -> None:
    """Run the image within limits."""
    port = free_port()
    name = f"salver-check-{port}"
    words = [word for limit in limits for word in limit.words]
    process = store.start(
        *("--runtime=runc", "run", "--rm", "--network=host", f"--name={name}", f"--env=SALVER_PORT={port}"),
        *(*words, image, *_SERVE, f"--port={port}"),
    )

    try:
        wait_for(lambda: is_ready(port), process, "ready")
        store.call("podman", "exec", name, *within(*limits))
        store.call("podman", "healthcheck", "run", name)
        check(process, port, lambda: store.call("podman", "kill", "--signal=TERM", name))
    finally:
        store.call("podman", "kill", name, check=False)  # if something failed


def run_without_rights(store: Store, image: str) -> None:
    """Run the image's files as a user without rights."""
    port, place = free_port(), store.files(image)
    held = [limit for name, limit in LIMITS.items() if name != _GROUPS]
    subprocess.run(without_rights(place, within(*held)), check=True)
    process = subprocess.Popen(
        without_rights(place, ["salver", *_SERVE, f"--port={port}"]), stdout=subprocess.DEVNULL
    )
    check(process, port, lambda: _innermost(process.pid))


def main() -> None:
    """Build, measure, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="folder for the images")
    given = parser.parse_args()
    with folder_of(given.keep) as folder, tempfile.TemporaryDirectory() as scratch:
        store = Store(folder)
        store.write_base()
        flavour(store, "", Path(scratch, "core"))
        model = Path(scratch, "repository", "filetype", "1")
        model.mkdir(parents=True)
        filetype(model)
        image = flavour(store, "onnx", Path(scratch, "onnx"), Path(scratch, "repository"))
        started = time.monotonic()
        tried = store.call(
            *("podman", "--runtime=runc", "run", "--rm", "--network=host", image, "--version"), check=False
        )
        if tried.returncode:
            print(f"podman cannot run containers here, so only bwrap does: {tried.stderr.strip()[-200:]}")
        else:
            sets = [*((limit,) for limit in LIMITS.values()), (*LIMITS.values(),)]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda limits: run_by_podman(store, image, *limits), sets))
            print(f"runs by podman: {'; '.join(LIMITS)}; all of these")
        run_without_rights(store, image)
        print("runs by bwrap: a user without rights; all of these but control groups")
        print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
