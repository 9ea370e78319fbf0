"""Triton's repository agents, which check a model's files before a load.

There is one, ``checksum``, as in Triton's sample. Its parameters are ``MD5:<file>`` = digest, with the file's
path in the model's folder.
"""

import hashlib
from typing import Any, Final

from salver.dialects.triton.model_config import model_config_class
from salver.stores import StoreFailed
from salver.stores.protocol import checked
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

_HASHES: Final = {"MD5": hashlib.md5, "SHA256": hashlib.sha256}


def vet(manifest: Manifest) -> None:
    """Check the files that the agents of a model name. Blocking.

    Raises:
        LoadFailed: A file is missing or has another digest.
    """
    if not manifest.foreign_config:
        return
    for agent in model_config_class().FromString(manifest.foreign_config).model_repository_agents.agents:
        for key, digest in agent.parameters.items():
            _check(manifest, key, digest)


def _check(manifest: Manifest, key: str, digest: str) -> None:
    kind, _, name = key.partition(":")
    make: Any = _HASHES.get(kind.upper())
    if make is None or not name:
        raise LoadFailed(
            f"the agent checksum of model '{manifest.id.name}' has a parameter {key!r}",
            field="model_repository_agents.agents.parameters",
            fix=f"Write {' or '.join(f'{known}:FILE' for known in _HASHES)}.",
        )
    try:
        file = manifest.home / checked(name)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, lambda: make(usedforsecurity=False)).hexdigest()
    except StoreFailed as error:
        raise LoadFailed(f"the agent checksum of model '{manifest.id.name}': {error}") from error
    except OSError as error:
        raise LoadFailed(f"the agent checksum cannot read {file}: {error.strerror or error}") from error
    if found != digest.strip().lower():
        raise LoadFailed(f"Mismatched {kind.upper()} hash for file {file}, expect: {digest}, got: {found}")
