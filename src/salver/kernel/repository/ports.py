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
    """Error of a configuration that cannot be read, as opposed to one that is not supported."""


class ForeignConfig(msgspec.Struct, frozen=True):
    """Model configuration in the format of another server.

    Attributes:
        config: The configuration as Salver's record.
        label_files: Files with labels, by output.
        notices: Fields that have no effect.
        source: The whole configuration, serialised; only its dialect reads it.
        identity: The part on which a version depends, without the number of instances and the wanted
            versions.
        parameters: Parameters for the model's program.
        leaves_rows: It does not set the largest batch.
        incomplete: Error text for what the model must declare itself; empty = the configuration is complete.
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
    """Format of model configurations other than ``salver.toml``."""

    def parse(self, content: bytes, origin: str, name: str) -> ForeignConfig:
        """Return the configuration in a file.

        Args:
            origin: The file's path, for messages.
            name: Name of the model.

        Raises:
            UnreadableConfig, InvalidInput: the configuration is invalid; the error says where.
        """
        ...

    def parse_request(self, text: str, name: str) -> ForeignConfig:
        """Return the configuration that a load request holds. Raises as :meth:`parse`."""
        ...

    def missing_backend(self, backend: str) -> str:
        """Return an error text for a backend that only the other server has; else nothing."""
        ...

    def missing_file(self, path: Path) -> str:
        """Return an error text for a model that needs such a file and has none."""
        ...


class ArchiveFormat(Protocol):
    """Format of archives that contain the name and version of their model."""

    def identify(self, path: Path, name: str) -> tuple[str, str]:
        """Return name and version.

        Args:
            name: Name to use if the archive has none.

        Raises:
            BadArchive: the file is not a valid archive.
        """
        ...

    def complete(self, manifest: Manifest) -> Manifest:
        """Return the manifest, with defaults from the archive for what the owner did not configure."""
        ...


#: Returns the batching in a file, given its content and path. Raises InvalidInput.
ReadBatching = Callable[[bytes, str], Batching]

#: Returns the upload for a model's name and a folder that a load request names. Raises InvalidInput.
OpenFolder = Callable[[str, str], Upload]


def _recognise_nothing(path: Path) -> None:
    return None


def always_touches(backend: str, form: str) -> bool:
    """Return True, so that no format may come by request."""
    return True


def _open_no_folder(name: str, path: str) -> Upload:
    raise Unsupported(f"model '{name}' cannot be loaded from a folder that a request names")


class Formats(msgspec.Struct, frozen=True):
    """Readers of artefacts, configurations and archives.

    Attributes:
        recognise: Recognises the formats of artefacts.
        touches_machine: Returns whether a format can touch the machine, and requests may not bring it; by
            default every format can.
        configs: Configuration formats by file name, beside the versions or in one. Load requests use the
            first.
        archives: Archive formats by the format of the artefact.
        batching: Batching formats by file name, in a version's folder.
        open_folder: Opens a folder that a load request names.
    """

    recognise: Recogniser = _recognise_nothing
    touches_machine: TouchesMachine = always_touches
    configs: Mapping[str, ConfigFormat] = {}
    archives: Mapping[str, ArchiveFormat] = {}
    batching: Mapping[str, ReadBatching] = {}
    open_folder: OpenFolder = _open_no_folder

    def joined(self, other: "Formats") -> "Formats":
        """Return these formats with those of another feature added."""
        return msgspec.structs.replace(
            self,
            configs={**self.configs, **other.configs},
            archives={**self.archives, **other.archives},
            batching={**self.batching, **other.batching},
            open_folder=self.open_folder if other.open_folder is _open_no_folder else other.open_folder,
        )
