"""Formats of files that backends and dialects bring to a repository."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from salver.backends.protocol import Recogniser, TouchesMachine
from salver.lazy import lazy_imports
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.errors import InvalidInput, Unsupported

with lazy_imports():
    from salver.kernel.repository.uploads import Upload


class UnreadableConfig(InvalidInput):
    """A configuration that cannot be read, as opposed to one that cannot be honoured."""


class ForeignConfig(msgspec.Struct, frozen=True):
    """A model configuration in the format of another server.

    Attributes:
        config: Salver's record of it.
        label_files: Files with labels, by output.
        notices: Fields that have no effect.
        source: The whole configuration, serialised; only its dialect reads it.
        identity: The part of it that one version depends on: not the number of instances, nor which
            versions are wanted.
        parameters: Parameters for the model's program.
        leaves_rows: It does not say how many rows a batch may have.
        incomplete: Error text for what it leaves to the model to declare; empty = nothing.
    """

    config: ModelConfig
    label_files: Mapping[str, str]
    notices: tuple[str, ...]
    source: bytes
    identity: bytes
    parameters: Mapping[str, str]
    leaves_rows: bool
    incomplete: str


class ConfigFormat(Protocol):
    """A format of model configurations beside ``salver.toml``."""

    def parse(self, content: bytes, origin: str, name: str) -> ForeignConfig:
        """Return the configuration in a file.

        Args:
            origin: The file's path, for messages.
            name: The model's.

        Raises:
            UnreadableConfig, InvalidInput: what is wrong, and where.
        """
        ...

    def parse_request(self, text: str, name: str) -> ForeignConfig:
        """Return the configuration that a load request holds. Raises as :meth:`parse`."""
        ...

    def missing_backend(self, backend: str) -> str:
        """Return an error text for a backend of that server which there is not here; else nothing."""
        ...

    def missing_file(self, path: Path) -> str:
        """Return an error text for a model that needs such a file and has none."""
        ...


class ArchiveFormat(Protocol):
    """A format of archives that name their model and version."""

    def identify(self, path: Path, name: str) -> tuple[str, str]:
        """Return name and version.

        Args:
            name: Where the archive does not say one.

        Raises:
            BadArchive: it is none.
        """
        ...

    def complete(self, manifest: Manifest) -> Manifest:
        """Return the manifest with what the archive says where its owner's configuration says nothing."""
        ...


#: Returns the batching in a file, given its content and path. Raises InvalidInput.
ReadBatching = Callable[[bytes, str], Batching]

#: Returns the upload for a model's name and a folder that a load request names. Raises InvalidInput.
OpenFolder = Callable[[str, str], Upload]


def _recognise_nothing(path: Path) -> None:
    return None


def always_touches(backend: str, form: str) -> bool:
    """Return True: no format may come by request."""
    return True


def _open_no_folder(name: str, path: str) -> Upload:
    raise Unsupported(f"model '{name}' cannot be loaded from a folder that a request names")


class Formats(msgspec.Struct, frozen=True):
    """Readers of artefacts, configurations and archives.

    Attributes:
        recognise: Tells the formats of artefacts apart.
        touches_machine: Tells which formats requests may bring; by default none.
        configs: By file name, beside the versions or in one. Load requests hold the first one's.
        archives: By the format of the artefact.
        batching: By file name, in a version's folder.
        open_folder: Opens a folder that a load request names.
    """

    recognise: Recogniser = _recognise_nothing
    touches_machine: TouchesMachine = always_touches
    configs: Mapping[str, ConfigFormat] = {}
    archives: Mapping[str, ArchiveFormat] = {}
    batching: Mapping[str, ReadBatching] = {}
    open_folder: OpenFolder = _open_no_folder

    def joined(self, other: "Formats") -> "Formats":
        """Return these formats, and what another one brings of files."""
        return msgspec.structs.replace(
            self,
            configs={**self.configs, **other.configs},
            archives={**self.archives, **other.archives},
            batching={**self.batching, **other.batching},
            open_folder=self.open_folder if other.open_folder is _open_no_folder else other.open_folder,
        )
