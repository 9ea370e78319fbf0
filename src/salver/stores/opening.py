"""Opening of stores by path or URL."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from salver.lazy import lazy_imports
from salver.stores.file import FileStore
from salver.stores.protocol import Store
from salver.words.errors import InvalidInput, MissingExtra

with lazy_imports():
    from salver.stores import address as addresses
    from salver.stores.address import Address, filesystem_options, mount_of, parse_address
    from salver.stores.copies import Copies
    from salver.stores.distant import ObjectClient, ObjectStore


_MAX_CREDENTIALS: Final = 1 << 20
_CLASSES: Final = {"s3": "S3FileSystem", "gs": "GCSFileSystem", "as": "AzureBlobFileSystem"}


def open_store(path: Path | str, copies: Copies, environment: Mapping[str, str] = os.environ) -> Store:
    """Open a folder or file of this machine, or an object store by its URL.

    Args:
        copies: Gets the object stores, so that their models can be loaded.

    Raises:
        InvalidInput: the URL, or the environment's settings for it, are wrong.
        MissingExtra: the package for such a store is not installed.
    """
    if "://" not in str(path):
        return FileStore(Path(path))
    address = parse_address(str(path))
    filesystem_options(address, environment, _credentials(environment))  # errors show at once
    _module(address)
    store = ObjectStore(address, lambda: _objects(address, environment), mount_of(address, environment))
    copies.add(store)
    return store


def open_files(address: Address, environment: Mapping[str, str] = os.environ) -> Any:
    """Open the ``fsspec`` filesystem of an object store, to read and write.

    Raises:
        InvalidInput: the environment's settings for it are wrong.
        MissingExtra: the package for such a store is not installed.
    """
    return _objects(address, environment)


def _objects(address: Address, environment: Mapping[str, str]) -> ObjectClient:
    options = filesystem_options(address, environment, _credentials(environment))
    made: ObjectClient = getattr(_module(address), _CLASSES[address.scheme])(**options)
    return made


def _module(address: Address) -> Any:
    try:
        return importlib.import_module(addresses.SCHEMES[address.scheme].module)
    except ModuleNotFoundError as error:
        scheme = addresses.SCHEMES[address.scheme]
        if (error.name or "").partition(".")[0] != scheme.module:
            raise
        raise MissingExtra(f"{address.scheme}://", scheme.extra, scheme.module) from error


def _credentials(environment: Mapping[str, str]) -> bytes:
    name = addresses.CREDENTIAL_PATH
    path = environment.get(name, "")
    if not path:
        return b""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_CREDENTIALS + 1)
    except OSError as error:
        raise InvalidInput(f"{name}={path} cannot be read: {error.strerror}") from error
    if not content or len(content) > _MAX_CREDENTIALS:
        raise InvalidInput(
            f"{addresses.CREDENTIAL_PATH}={path} is not a credential file: it has {len(content)} bytes"
        )
    return content
