"""Models from OCI registries.

A model is a ModelCar (an image with files below ``/models``), a ModelPack of the CNCF, a ModelKit of
KitOps, or files that were pushed with their names, as ``oras`` does. It is named by tag or digest; the
manifest's digest identifies it.
"""

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.encoding.lenient import mapping, sequence, text
from salver.stores import StoreFailed
from salver.stores.sources.archives import card_of
from salver.stores.sources.distribution import INDEXES, Descriptor, Distribution, descriptor
from salver.stores.sources.downloading import Digest
from salver.stores.sources.fetched import FetchedModel, Progress, silent
from salver.stores.sources.layers import Layers
from salver.stores.sources.web import parse_object
from salver.stores.unpack import MOST_BYTES, honest_bytes, room_in
from salver.words.errors import InvalidInput, LoadFailed

_MODELS: Final = "models"  # KServe's ModelCar
_MODEL_PACK: Final = "application/vnd.cncf.model."
_KIT: Final = "application/vnd.kitops.modelkit."
_IMAGE: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_FILE_PATH: Final = "org.cncf.model.filepath"
_TITLE: Final = "org.opencontainers.image.title"
_UNPACK: Final = "io.deis.oras.content.unpack"
#: Layers that are not served.
_LEFT_OUT: Final = (f"{_MODEL_PACK}dataset.", f"{_KIT}dataset.")
_MOST_LAYERS: Final = 512
_MOST_CONFIG: Final = 4 << 20
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_MOST_WORDS: Final = 1024


class _Manifest(msgspec.Struct, frozen=True):
    """A parsed manifest.

    Attributes:
        kind: Media type of its configuration, or the value of its ``artifactType``.
    """

    digest: Digest
    kind: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, Any]


class OciSource:
    """A :class:`~salver.stores.sources.Source` over a repository of a registry."""

    def __init__(self, repository: Distribution) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"<OciSource {self._repository!r}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol."""
        found = self._manifest()
        files, aside = folder / "files", folder / "blobs"
        files.mkdir()
        aside.mkdir()
        size = sum(layer.size for layer in found.layers)
        if size > min(MOST_BYTES, room_in(folder)):
            raise LoadFailed(f"{self._where} has {size} bytes, and there is room for {room_in(folder)}")
        self._files(found, files, aside, progress)
        shutil.rmtree(aside)
        if not any(files.iterdir()):
            raise InvalidInput(f"{self._where} holds no model", fix="A ModelCar has it in /models.")
        reference = self._repository.reference
        tags = {"oci.tag": reference.tag} if reference.digest is None else {}
        source = f"oci://{reference.host}/{reference.name}@{found.digest}"
        return FetchedModel(files, source, card_of(files), {**tags, **self._said(found, folder)})

    @property
    def _where(self) -> str:
        reference = self._repository.reference
        return f"oci://{reference.host}/{reference.name}"

    def _manifest(self) -> _Manifest:
        """Return the manifest; of an index, the one for this machine or the only one."""
        said, digest = self._repository.manifest(None)
        if said.get("mediaType") in INDEXES or "manifests" in said:
            said, digest = self._repository.manifest(_chosen(said, self._where))
        layers = said.get("layers")
        if not isinstance(layers, list) or not 0 < len(layers) <= _MOST_LAYERS:
            raise StoreFailed(f"{self._where} has a manifest without layers, or with too many")
        config = descriptor(said.get("config"), self._where)
        kind, annotations = said.get("artifactType") or config.media_type, said.get("annotations")
        return _Manifest(
            digest,
            str(kind),
            config,
            tuple(descriptor(layer, self._where) for layer in layers),
            mapping(annotations),
        )

    def _files(self, found: _Manifest, files: Path, aside: Path, progress: Progress) -> None:
        most = honest_bytes(sum(layer.size for layer in found.layers))
        image, plain = Layers(files, most, _MODELS), Layers(files, most)
        for number, layer in enumerate(found.layers):
            kind = layer.media_type
            if kind.startswith(_LEFT_OUT):
                continue
            what, blob = f"layer {number + 1} of {self._where}", aside / str(number)
            self._repository.blob(layer, blob, progress)
            name = _named(layer)
            if kind.startswith((_MODEL_PACK, _KIT)) and ".tar" in kind:
                plain.add(blob, what)
            elif kind.startswith(_MODEL_PACK) and not name:
                raise StoreFailed(f"{what} is a file without a name ({_FILE_PATH})")
            elif name and layer.annotations.get(_UNPACK) == "true":
                plain.add(blob, what)
            elif name:
                plain.add_file(blob, name, what)
            elif kind.startswith(_IMAGE):
                image.add(blob, what)
            else:
                raise StoreFailed(f"{what} is {kind[:200]!r}, which is not known, and has no name")
            blob.unlink(missing_ok=True)

    def _said(self, found: _Manifest, folder: Path) -> Mapping[str, str]:
        """Return the metadata of a ModelPack, as tags."""
        if not found.config.media_type.startswith(_MODEL_PACK) or found.config.size > _MOST_CONFIG:
            return {}
        file = folder / "config.json"
        self._repository.blob(found.config, file, silent)
        said = parse_object(file.read_bytes(), f"the configuration of {self._where}")
        tags = {}
        for part in ("descriptor", "config"):
            values = said.get(part)
            for key, value in mapping(values).items():
                if (text := _text(value)) and key.isascii() and key.isalnum():
                    tags[f"model.{key}"] = text
        return tags


def _chosen(index: Mapping[str, Any], where: str) -> Digest:
    """Return the manifest of an index for this machine."""
    some = index.get("manifests")
    known = [descriptor(value, where) for value in sequence(some)[:_MOST_LAYERS]]
    machine = platform.machine().lower()
    mine = [
        each
        for each in known
        if each.platform.get("os") in (None, "linux")
        and each.platform.get("architecture") in (None, machine, _MACHINES.get(machine))
    ]
    if not known or (not mine and len(known) > 1):
        raise StoreFailed(f"{where} is an index without a manifest for linux/{machine}")
    return (mine or known)[0].digest


def _named(layer: Descriptor) -> str:
    name = layer.annotations.get(_FILE_PATH) or layer.annotations.get(_TITLE)
    return text(name)


def _text(value: Any) -> str:
    """Return a tag's value; empty if it cannot be one."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    if isinstance(value, str) and "\0" not in value:
        return value[:_MOST_WORDS]
    return ""
