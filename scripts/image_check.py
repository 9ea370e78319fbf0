"""Check that the image of salver build works as a cluster runs it.

Builds the image of a small ONNX model with buildah, on a Debian made by mmdebstrap, so that no registry is
needed. Runs it by podman: as a random user, without capabilities, with a read-only root, 64 MiB of /dev/shm,
768 MiB of memory and the time of one core. Where podman cannot run containers, bwrap runs the image's files
without the limits of memory and time; the last line says which it was. Needs root.

    PYTHONPATH=tests/support python scripts/image_check.py
    PYTHONPATH=tests/support python scripts/image_check.py --keep DIR   # leaves the images there
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from zoo import infer_body, write_constant

from salver.testing.process import free_port

_BASE: Final = "localhost/salver-base"
_IMAGE: Final = "localhost/salver-check"
_MOST_MB: Final = 170  # with ONNX Runtime; without it 133
_PATIENCE_S: Final = 120
_ASKED: Final = 20  # after the signal
#: Kept out of the base: what no server reads.
_LEFT_OUT: Final = ("doc", "man", "locale", "info")
#: What pip needs to find packages as it does here.
_OF_PIP: Final = ("/etc/pip.conf", "/etc/ssl/certs")
_RUN: Final = (
    *("--runtime", "runc", "run", "--rm", "--network=host", "--user=47123:0"),
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,size=64m,mode=1777"),
    # --shm-size makes a read-only /dev/shm beside --read-only-tmpfs=false.
    "--mount=type=tmpfs,destination=/dev/shm,tmpfs-size=64m,tmpfs-mode=1777",
    *("--memory=768m", "--memory-swap=768m", "--pids-limit=256", "--cpus=1"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
)


class Store:
    """Images in a folder of their own, by buildah and podman."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._words = ("--storage-driver=vfs", f"--root={folder / 'store'}", f"--runroot={folder / 'run'}")
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "TMPDIR": str(folder / "tmp"),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }

    def call(self, program: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run buildah or podman on these images."""
        done = subprocess.run(
            [program, *self._words, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise SystemExit(f"{program} {words[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start podman."""
        return subprocess.Popen(
            ["podman", *self._words, *words], env=self._environment, stdout=subprocess.DEVNULL
        )

    def build(self, image: str, context: Path, *words: str) -> None:
        """Build an image."""
        # Otherwise buildah raises the limits, which a container of CI may not.
        limits = [
            f"--ulimit={name}={(most := resource.getrlimit(number)[1])}:{most}"
            for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        ]
        folders = [*_OF_PIP, *os.environ.get("PIP_FIND_LINKS", "").split()]
        mounts = [f"--volume={path}:{path}:ro" for path in folders if Path(path).exists()]
        self.call(
            *("buildah", "bud", "--quiet", "--isolation=chroot", "--format=docker", "--layers=false"),
            *(*limits, *mounts, *words, f"--tag={image}", str(context)),
        )

    def write_base(self) -> None:
        """Make the base, unless it is there: a small Debian with the Python that runs this."""
        if self.call("buildah", "inspect", "--type=image", _BASE, check=False).returncode == 0:
            return
        context = self._folder / "base"
        context.mkdir(exist_ok=True)
        paths = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
        packages = "--include=python3,python3-venv,ca-certificates"
        mirror = "deb http://deb.debian.org/debian bookworm main"
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                packages,
                *paths,
                "bookworm",
                context / "base.tar",
                mirror,
            ],
            check=True,
        )
        (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
        self.build(_BASE, context)
        (context / "base.tar").unlink()

    def compressed_mb(self, image: str) -> float:
        """Return the size that a registry would send."""
        archive = self._folder / "image.tar"
        archive.unlink(missing_ok=True)
        self.call("buildah", "push", "--quiet", image, f"oci-archive:{archive}")
        return archive.stat().st_size / 1e6

    def files(self, image: str) -> str:
        """Return the folder with the image's files."""
        container = self.call("buildah", "from", image).stdout.strip()
        return self.call("buildah", "mount", container).stdout.strip()


def bwrap(files: str, words: Sequence[str]) -> list[str]:
    """Return the command that runs an image's files with the same rights, but no limits of its use."""
    return [
        *("bwrap", "--unshare-all", "--share-net", "--uid", "47123", "--gid", "0", "--ro-bind", files, "/"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(64 << 20), "--tmpfs", "/dev/shm"),
        *(
            "--size",
            str(64 << 20),
            "--tmpfs",
            "/tmp",
            "--cap-drop",
            "ALL",
            "--die-with-parent",
            "--new-session",
        ),
        *("--clearenv", "--setenv", "PATH", "/opt/salver/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp"),
        *("--setenv", "USER", "salver", "--setenv", "SALVER_HOST", "0.0.0.0", "salver", *words),
    ]


def ask(port: int) -> None:
    """Ask the model once."""
    url = f"http://127.0.0.1:{port}/v2/models/constant/infer"
    with urllib.request.urlopen(url, json.dumps(infer_body()).encode(), timeout=30) as answer:
        if json.load(answer)["outputs"][0]["data"] != [1.0]:
            raise SystemExit("the image's server answers wrongly")


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
    """Ask the server, also after it was told to stop, and wait for its end."""
    wait_for(lambda: is_ready(port), process, "ready")
    ask(port)
    stop()
    wait_for(lambda: not is_ready(port), process, "draining")
    for _ in range(_ASKED):
        ask(port)
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
    with tempfile.TemporaryDirectory(prefix="salver-image-") as folder:
        yield Path(folder)


def main() -> None:
    """Build, measure, run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="folder for the images")
    given = parser.parse_args()
    with folder_of(given.keep) as folder, tempfile.TemporaryDirectory() as scratch:
        store, context = Store(folder), Path(scratch, "context")
        write_constant(Path(scratch, "repository"), 1)
        salver = Path(sys.executable).with_name("salver")
        subprocess.run([salver, "build", Path(scratch, "repository"), "--output", context], check=True)
        store.write_base()
        store.build(_IMAGE, context, f"--build-arg=BASE={_BASE}")
        size = store.compressed_mb(_IMAGE)
        port = free_port()
        words = ["serve", "/models/repository", f"--port={port}", "--allow-anonymous", "--drain-delay=10"]
        runner = "podman"
        if store.call("podman", *_RUN, _IMAGE, "--version", check=False).returncode:
            runner = "bwrap"
            process = subprocess.Popen(bwrap(store.files(_IMAGE), words))
            check(process, port, lambda: _innermost(process.pid))
        else:
            machine = store.call("podman", *_RUN, _IMAGE, "doctor", "--json").stdout
            facts = {each["what"]: each["value"] for each in json.loads(machine)["machine"]}
            if not facts["cores"].startswith("1 usable") or facts["memory"] != "0.8 GiB":
                raise SystemExit(f"limits of the container do not count: {facts}")
            name = f"salver-check-{port}"
            process = store.start(*_RUN, f"--name={name}", f"--env=SALVER_PORT={port}", _IMAGE, *words)

            def stop() -> None:
                store.call("podman", "healthcheck", "run", name)
                store.start("stop", "--time=60", name)

            check(process, port, stop)
    print(f"image of a model: {size:.1f} MB compressed, run by {runner}")
    if size > _MOST_MB:
        raise SystemExit(f"more than {_MOST_MB} MB")


if __name__ == "__main__":
    main()
