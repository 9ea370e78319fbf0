"""Images of a folder of their own, built by buildah and run by podman, without a registry."""

import os
import resource
import subprocess
from pathlib import Path
from typing import Final

#: The small Debian that images are built on.
BASE: Final = "localhost/salver-base"
#: Kept out of the base: what no server reads.
_LEFT_OUT: Final = ("doc", "man", "locale", "info")
#: What pip needs to find packages as it does here.
_OF_PIP: Final = ("/etc/pip.conf", "/etc/ssl/certs")


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
        if self.call("buildah", "inspect", "--type=image", BASE, check=False).returncode == 0:
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
        self.build(BASE, context)
        (context / "base.tar").unlink()

    def compressed_mb(self, image: str) -> float:
        """Return the size that a registry would send."""
        archive = self._folder / "image.tar"
        archive.unlink(missing_ok=True)
        self.call("buildah", "push", "--quiet", image, f"oci-archive:{archive}")
        return archive.stat().st_size / 1e6

    def files(self, image: str) -> str:
        """Return the folder with the image's files."""
        return self.call("podman", "image", "mount", image).stdout.strip()
