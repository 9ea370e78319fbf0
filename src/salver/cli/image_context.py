"""Context of a container image: resolved by pip, locked by hashes, with a bill of materials.

Everything in it comes from pip's installation report, so that the lock, the bill of materials (CycloneDX) and
what the image installs are the same.
"""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from salver import __version__
from salver.words.errors import FailedPrecondition, InvalidInput

_TEMPLATE: Final = Path(__file__).with_name("Containerfile")
_LICENSE_LETTERS: Final = 100  # longer ones are the licence's text
_BUILT_BY_THE_IMAGE: Final = f"python:{sys.version_info.major}.{sys.version_info.minor}-"
#: PyTorch without CUDA; on Linux the package index has only builds with it.
_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
#: CUDA's libraries come in packages. The loader has to find them, and the container gets the driver.
_FOR_GPUS: Final = """\
RUN find /opt/salver -type d -path '*/nvidia/*/lib' > /etc/ld.so.conf.d/salver.conf && ldconfig
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
"""


class Package(msgspec.Struct, frozen=True):
    """A package at the version that the image installs.

    Attributes:
        file: Where it was found, if that is a file of this machine.
    """

    name: str
    version: str
    sha256: str
    license: str
    file: Path | None


def write_context(
    folder: Path, models: str, extras: Iterable[str], further: Sequence[str], *, offline: bool, gpu: bool
) -> int:
    """Write the context; return how many packages it locks.

    Args:
        further: Packages beside Salver's, as words of pip.

    Raises:
        InvalidInput: an extra is unknown.
        FailedPrecondition: pip is not installed, or finds no packages that fit together, or none for GPUs.
    """
    known = importlib.metadata.metadata("salver").get_all("Provides-Extra") or []
    if unknown := sorted(set(extras) - set(known)):
        raise InvalidInput(
            f"salver has no extra {', '.join(unknown)}",
            field="--extras",
            fix=f"There are {', '.join(known)}.",
        )
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), _source())
    (own,) = wheels.iterdir()
    wanted = [f"salver[{','.join(sorted(extras))}] @ {own.resolve().as_uri()}", *further]
    head = ["--find-links wheels"]
    packages = _resolve(wanted)
    if gpu:
        packages = _for_gpus(packages, wanted)
    elif _has_cuda(packages):
        packages = _without_cuda(wanted)
    if any(each.version.endswith("+cpu") and each.file is None for each in packages):
        head.append(f"--extra-index-url {_CPU_INDEX}")
    # What comes from a file of this machine is in no index that the image could ask.
    for package in packages:
        if package.file is not None and not (wheels / package.file.name).exists():
            shutil.copy(package.file, wheels)
    locked = [f"{each.name}=={each.version} --hash=sha256:{each.sha256}" for each in packages]
    (folder / "requirements.txt").write_text("\n".join([*head, *locked, ""]))
    if offline:
        _pip(
            *(
                "download",
                "--no-deps",
                "--require-hashes",
                "--dest",
                str(wheels),
                "--find-links",
                str(wheels),
            ),
            *("--requirement", str(folder / "requirements.txt")),
        )
        (folder / "requirements.txt").write_text("\n".join(["--no-index", head[0], *locked, ""]))
    (folder / "sbom.cdx.json").write_text(json.dumps(bill_of_materials(packages), indent=1))
    (folder / "Containerfile").write_text(_containerfile(_copy(models, folder / "models"), gpu=gpu))
    return len(packages)


def bill_of_materials(packages: Iterable[Package]) -> dict[str, Any]:
    """Return the packages as CycloneDX 1.6 lists them.

    >>> bill_of_materials([Package("numpy", "2.4.6", "ab", "BSD-3-Clause", None)])["components"][0]["purl"]
    'pkg:pypi/numpy@2.4.6'
    """
    components = []
    for package in packages:
        purl = f"pkg:pypi/{package.name.lower().replace('_', '-')}@{package.version}"
        component = {
            "type": "library",
            "bom-ref": purl,
            "name": package.name,
            "version": package.version,
            "hashes": [{"alg": "SHA-256", "content": package.sha256}],
            "purl": purl,
        }
        if package.license:
            component["licenses"] = [{"license": {"name": package.license}}]
        components.append(component)
    subject = {"type": "container", "name": "salver", "version": __version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
    }


def _source() -> str:
    """Return what pip makes Salver's wheel of: where it was installed from, or its version in the index."""
    direct = importlib.metadata.distribution("salver").read_text("direct_url.json")
    if direct is None:
        return f"salver=={__version__}"
    return str(json.loads(direct)["url"])


def _for_gpus(packages: list[Package], wanted: list[str]) -> list[Package]:
    """Return packages that use CUDA in place of those that do not."""
    if any(each.name == "onnxruntime" for each in packages):
        found = _resolve([*wanted, "onnxruntime-gpu[cuda,cudnn]"])
        packages = [each for each in found if each.name != "onnxruntime"]  # of the same module
    if without := [each.name for each in packages if each.version.endswith("+cpu")]:
        raise FailedPrecondition(
            f"pip finds {', '.join(without)} without CUDA",
            field="--gpu",
            fix="Take the place with the CPU builds out of pip's settings: pip config list.",
        )
    if not _has_cuda(packages):
        raise FailedPrecondition(
            "none of the packages uses CUDA", field="--gpu", fix="Add --extras torch, onnx or all."
        )
    return packages


def _without_cuda(wanted: list[str]) -> list[Package]:
    """Return packages of which none brings CUDA."""
    # Where that index cannot be reached, pip would ask it five times for each package.
    packages = _resolve([*wanted, "--extra-index-url", _CPU_INDEX, "--retries", "1"])
    if _has_cuda(packages):
        raise FailedPrecondition(
            f"pip finds no builds without CUDA at {_CPU_INDEX}",
            fix="Set PIP_EXTRA_INDEX_URL to an index that has them, or build for GPUs: --gpu.",
        )
    return packages


def _has_cuda(packages: Iterable[Package]) -> bool:
    return any(each.name.startswith("nvidia-cudnn") for each in packages)


def _resolve(wanted: list[str]) -> list[Package]:
    """Return the packages that pip would install."""
    # What was tested here is what the image gets, but for the kind of build: +cpu or +cu130.
    pins = [
        f"{each.name}=={each.version.partition('+')[0]}"
        for each in importlib.metadata.distributions()
        if each.name != "salver"
    ]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(pins))
        words = ["--dry-run", "--ignore-installed", "--constraint", str(constraints), "--report", str(report)]
        _pip("install", *words, *wanted)
        found = json.loads(report.read_text())["install"]
    return sorted(map(_package, found), key=lambda package: package.name.lower())


def _package(entry: dict[str, Any]) -> Package:
    metadata, download = entry["metadata"], entry["download_info"]
    place = urlsplit(download["url"])
    file = None
    digest = download.get("archive_info", {}).get("hashes", {}).get("sha256", "")
    if place.scheme == "file":
        file = Path(unquote(place.path))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = metadata.get("license_expression") or metadata.get("license") or ""
    if len(name) > _LICENSE_LETTERS:
        name = ""
    return Package(metadata["name"], metadata["version"], digest, name, file)


def _copy(models: str, to: Path) -> str:
    """Copy the models; return their path in the image."""
    to.mkdir()
    if not models:
        return "/models"
    source = Path(models).resolve()
    if source.is_dir():
        shutil.copytree(source, to / source.name, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    else:
        shutil.copy(source, to)
    return f"/models/{source.name}"


def _containerfile(models: str, *, gpu: bool) -> str:
    text = _TEMPLATE.read_text()
    if gpu:
        text = text.replace("COPY models /models\n", f"{_FOR_GPUS}COPY models /models\n")
    text = text.replace("python:3.11-", _BUILT_BY_THE_IMAGE).replace("VERSION", __version__)
    return text.replace('CMD ["serve", "/models"]', f'CMD ["serve", {json.dumps(models)}]')


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        fix = "See pip's message. Where packages come from is set by pip's variables, such as PIP_INDEX_URL."
        if "No module named pip" in done.stderr:
            fix = "python -m ensurepip installs it."
        raise FailedPrecondition(f"pip {words[0]} failed: {done.stderr.strip()[-2000:]}", fix=fix)
