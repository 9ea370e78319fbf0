"""Facts about the machine and the installed frameworks, found out without importing these."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence

import msgspec

from salver.backends.installed import is_installed
from salver.backends.protocol import Backend
from salver.machine import memory_bytes, usable_cores
from salver.words.sizes import told_bytes

_PACKAGES = ("uvloop", "numpy", "protobuf")
_FEW_DESCRIPTORS = 4096
_LITTLE_SHM = 128 << 20


class Framework(msgspec.Struct, frozen=True):
    """A backend, and whether its framework is installed.

    Attributes:
        missing: Modules that are not installed.
        fix: How to install them, or empty.
        harmless_formats: Formats that requests may bring without ``--trust-pickle``.
    """

    backend: str
    state: str
    versions: dict[str, str]
    missing: tuple[str, ...]
    fix: str
    harmless_formats: tuple[str, ...]


class Finding(msgspec.Struct, frozen=True):
    """One fact about the machine; ``hint`` says how to solve a problem."""

    what: str
    value: str
    hint: str = ""


def frameworks(backends: Mapping[str, Backend]) -> list[Framework]:
    """Return every backend; no framework is imported."""
    owners = importlib.metadata.packages_distributions()
    return [_framework(backend, owners) for backend in backends.values()]


def _framework(backend: Backend, owners: Mapping[str, Sequence[str]]) -> Framework:
    missing = tuple(module for module in backend.modules if not is_installed(module))
    versions = {}
    for module in backend.modules:
        if module not in missing:
            for owner in sorted(set(owners.get(module.partition(".")[0], ()))):
                versions[owner] = importlib.metadata.version(owner)
    fix = ""
    if missing:
        fix = f"pip install 'salver[{backend.extra}]'"
    harmless = tuple(sorted(backend.traits.harmless_formats or ()))
    return Framework(backend.name, "missing" if missing else "ok", versions, missing, fix, harmless)


def findings() -> list[Finding]:
    """Return what matters to serving."""
    found = [
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("cores", f"{usable_cores()} usable of {os.cpu_count()}"),
        Finding("memory", _memory()),
        _shared_memory(),
        _descriptors(),
    ]
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(Finding(package, importlib.metadata.version(package)))
    return found


def _memory() -> str:
    return told_bytes(memory_bytes())


def _shared_memory() -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return Finding("shared memory", "none", "callers' segments (--allow-client-shm) need a tmpfs there")
    hint = ""
    if usage.free < _LITTLE_SHM:
        hint = "little for callers' segments and PyTorch's workers; in a container: --shm-size=1g"
    return Finding("shared memory", f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free", hint)


def _descriptors() -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("open files", "unknown")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    names = ["unlimited" if n == resource.RLIM_INFINITY else str(n) for n in (soft, hard)]
    few = soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS
    hint = ""
    if few:
        hint = f"each connection takes one; raise it: ulimit -n {min(hard, 65536)}"
    return Finding("open files", f"{names[0]} (hard limit {names[1]})", hint)
