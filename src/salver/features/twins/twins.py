"""Creation and lookup of SavedModels converted to ONNX.

If configured, a SavedModel is converted once in a process of its own, and the result is stored in the state
directory; from then on TensorFlow is not needed. Signatures that cannot be converted, or answer differently,
stay with TensorFlow, which is logged. The conversion is in :mod:`salver.features.twins.conversion`.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import numpy as np

from salver.features.twins.backend import FILE, FORMAT, SAMPLES, Twin, TwinBackend, read_twin
from salver.kernel.repository.fingerprint import digest
from salver.words.artifacts import Manifest, Ragged
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

_LOG = logging.getLogger("salver.loader")
_MAKER: Final = "salver.features.twins.conversion"
_VERSION: Final = 1  # version of the conversion
_MOST: Final = 64  # maximum number; the least recently used are deleted
_LONGEST_S: Final = 3600.0
_LAST_WORDS: Final = 600
#: Requests by signature key and input.
Samples = Mapping[str, Sequence[Mapping[str, Array]]]


class Twins:
    """Store of converted models.

    Args:
        state_dir: Folder of the converted models; empty = temporary.
        by_default: For SavedModels without a setting.
        samples_of: Reads the sample requests in a SavedModel's folder; generated ones are added. Blocking.
    """

    def __init__(
        self,
        state_dir: str = "",
        *,
        by_default: bool = False,
        samples_of: Callable[[Path], Samples] = lambda folder: {},
    ) -> None:
        self._state = Path(state_dir).absolute() if state_dir else None
        self._by_default = by_default
        self._samples_of = samples_of
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._making = asyncio.Lock()  # one at a time: it uses a core and the memory of a large framework

    def __repr__(self) -> str:
        return f"<Twins in {self._state or 'memory'}>"

    def is_wanted(self, manifest: Manifest) -> bool:
        """Return whether to convert this version if possible."""
        config = manifest.config
        wish = config.options.get("prefer", "onnx" if self._by_default else "")
        is_plain = not config.sequences.strategy and config.ragged == Ragged()
        return manifest.backend == "tensorflow" and wish == "onnx" and is_plain

    async def find(self, manifest: Manifest) -> tuple[TwinBackend, Manifest] | None:
        """Return the converted version, created if necessary, and its backend; None = none.

        Args:
            samples: Sample requests of the model; generated ones are added.
        """
        if not self.is_wanted(manifest):
            return None
        samples = await asyncio.to_thread(self._samples_of, manifest.path)
        async with self._making:
            folder = self._root() / await asyncio.to_thread(_key, manifest)
            try:
                if not (folder / FILE).is_file():
                    await self._make(manifest, folder, samples)
                twin = await asyncio.to_thread(read_twin, folder)
                os.utime(folder)
            except (LoadFailed, OSError) as error:
                _LOG.warning(
                    "%s: cannot be converted to ONNX and runs with TensorFlow: %s", manifest.id, error
                )
                return None
        _tell(manifest, twin)
        graphs = [bool(part.file) for part in twin.parts]
        if not any(graphs):
            return None
        backend = TwinBackend(None if all(graphs) else manifest, graphs)
        return backend, msgspec.structs.replace(manifest, path=folder, format=FORMAT, backend=backend.name)

    def _root(self) -> Path:
        if self._state is not None:
            return self._state / "twins"
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="salver-twins-")
        return Path(self._own.name)

    async def _make(self, manifest: Manifest, folder: Path, samples: Samples) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        _LOG.info("%s: converting to ONNX, which takes a while", manifest.id)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".", suffix=".part") as work:
            new = Path(work) / "new"
            new.mkdir()
            await asyncio.to_thread(_write_samples, new, samples)
            order = {"id": manifest.id, "path": str(manifest.path), "config": manifest.config}
            (Path(work) / "order.json").write_bytes(msgspec.json.encode(order))
            await _run(Path(work) / "order.json", new)
            with contextlib.suppress(OSError):  # another server was faster
                new.rename(folder)
        _LOG.info("%s: converted in %.1f s", manifest.id, time.monotonic() - began)
        await asyncio.to_thread(_remove_oldest, folder.parent)


def _key(manifest: Manifest) -> str:
    """Return the key, by content and configuration, not by location; blocking."""
    config = manifest.config
    content = digest(manifest.path) or f"{manifest.path} {manifest.fingerprint}"
    told = (config.options, config.inputs, config.outputs, config.batching.has_rows)
    return hashlib.blake2b(f"{_VERSION} {content} {told!r}".encode(), digest_size=16).hexdigest()


async def _run(order: Path, folder: Path) -> None:
    """Run the program. Raises LoadFailed with its last output."""
    maker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MAKER, str(order), str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            _, words = await maker.communicate()
    except TimeoutError as error:
        raise LoadFailed(f"the conversion took more than {_LONGEST_S:.0f} s") from error
    finally:
        if maker.returncode is None:
            maker.kill()
            await maker.wait()
    if maker.returncode:
        last = words.decode(errors="replace").strip()[-_LAST_WORDS:]
        raise LoadFailed(last or f"the conversion ended with {maker.returncode}")


def _write_samples(folder: Path, samples: Samples) -> None:
    arrays = {
        f"{number}/{quote(key, safe='')}/{quote(name, safe='')}": array
        for key, requests in samples.items()
        for number, request in enumerate(requests)
        for name, array in request.items()
    }
    if arrays:
        np.savez(folder / SAMPLES, allow_pickle=False, **arrays)


def _tell(manifest: Manifest, twin: Twin) -> None:
    """Log the result of each signature."""
    graphs = [part for part in twin.parts if part.file]
    if graphs:
        names = ", ".join(repr(part.signature.name) for part in graphs)
        samples, apart = min(part.samples for part in graphs), max(part.apart for part in graphs)
        told = "%s: runs as ONNX: %s. Answers to %d samples and more were at most %.1e off"
        _LOG.info(told, manifest.id, names, samples, apart)
    if rest := [part for part in twin.parts if not part.file]:
        whys: dict[str, list[str]] = {}
        for part in rest:
            whys.setdefault(part.why, []).append(repr(part.signature.name))
        words = "; ".join(f"{', '.join(names)}, since {why}" for why, names in whys.items())
        _LOG.warning("%s: still needs TensorFlow: %s", manifest.id, words)


def _remove_oldest(folder: Path) -> None:
    with contextlib.suppress(OSError):
        kept = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        for path in kept[:-_MOST]:
            shutil.rmtree(path, ignore_errors=True)
