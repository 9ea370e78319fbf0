"""URLs of object stores, their credentials, and folders for local copies.

Triton's forms: ``s3://bucket/path``, ``s3://host:port/bucket/path`` and
``s3://https://host:port/bucket/path``, ``gs://bucket/path``, ``as://account/container/path``. Pure: the
environment and the credential file's content are arguments.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from salver.stores.protocol import StoreFailed, checked
from salver.words.errors import InvalidInput

#: Variable that names a JSON file with credentials by prefix of the URL.
CREDENTIAL_PATH: Final = "TRITON_CLOUD_CREDENTIAL_PATH"
_HOST: Final = r"(?:[0-9A-Za-z.\-]+|\[[0-9a-fA-F:]+\])"
_S3_ENDPOINT: Final = re.compile(rf"((?:https?://{_HOST}(?::[0-9]{{1,5}})?)|(?:{_HOST}:[0-9]{{1,5}}))/(.+)")


class Scheme(NamedTuple):
    """A kind of object store.

    Attributes:
        module: The module that ``fsspec`` needs.
        extra: The pip extra that installs it.
        mount: The variable that names the folder for local copies.
    """

    module: str
    extra: str
    mount: str
    example: str


SCHEMES: Final[Mapping[str, Scheme]] = {
    "s3": Scheme("s3fs", "cloud", "TRITON_AWS_MOUNT_DIRECTORY", "s3://bucket/path"),
    "gs": Scheme("gcsfs", "gcs", "TRITON_GCS_MOUNT_DIRECTORY", "gs://bucket/path"),
    "as": Scheme("adlfs", "azure", "TRITON_AZURE_MOUNT_DIRECTORY", "as://account/container/path"),
}


class Address(msgspec.Struct, frozen=True):
    """A place in an object store.

    Attributes:
        url: The URL as given, without a slash at the end.
        root: Bucket (or container) and path, with ``/``.
        endpoint: URL of the S3 server; empty = Amazon's.
        account: Account of Azure.
    """

    url: str
    scheme: str
    root: str
    endpoint: str = ""
    account: str = ""


def is_address(path: str) -> bool:
    """Return whether a path is a URL and not a path of this machine."""
    return "://" in path


def parse_address(url: str) -> Address:
    """Return the address that a URL names.

    Raises:
        InvalidInput: the URL has none of Triton's forms.

    >>> parse_address("s3://https://store:9000/models/all/").root
    'models/all'
    """
    scheme, _, rest = url.partition("://")
    rest = rest.rstrip("/")
    if scheme not in SCHEMES:
        raise InvalidInput(
            f"{url}: unknown scheme {scheme}://",
            fix=f"Give a folder, or one of {', '.join(s.example for s in SCHEMES.values())}.",
        )
    endpoint = account = ""
    root = rest
    if scheme == "s3" and (match := _S3_ENDPOINT.fullmatch(rest)):
        endpoint = match[1] if "://" in match[1] else f"http://{match[1]}"
        root = match[2]
    elif scheme == "as":
        account, _, root = rest.partition("/")
        account = account.removesuffix(".blob.core.windows.net")
    parts = root.split("/")
    try:
        checked(root)
    except StoreFailed as error:
        raise InvalidInput(f"{url}: {error}") from error
    if not all(parts) or "." in parts or ":" in parts[0] or not root.isprintable():
        raise InvalidInput(f"{url} names no bucket", fix=f"Write {SCHEMES[scheme].example}.")
    return Address(f"{scheme}://{rest}", scheme, root, endpoint, account)


def mount_of(address: Address, environment: Mapping[str, str]) -> Path | None:
    """Return the folder for local copies that the operator names; None if there is none.

    Raises:
        InvalidInput: there is no such folder.
    """
    name = SCHEMES[address.scheme].mount
    if not (folder := environment.get(name, "")):
        return None
    if not Path(folder).is_dir():
        raise InvalidInput(f"{name}={folder} is not a folder", fix="Make it, or leave the variable out.")
    return Path(folder)


def filesystem_options(
    address: Address, environment: Mapping[str, str], credentials: bytes = b""
) -> dict[str, Any]:
    """Return the options with which ``fsspec`` opens the place.

    Args:
        credentials: Content of the credential file; empty = only the environment.

    Raises:
        InvalidInput: the file is not what Triton documents. Its content is never repeated.
    """
    known = _entry(address, credentials) if credentials else None
    common = {"use_listings_cache": False, "skip_instance_cache": True}
    if address.scheme == "s3":
        return common | _s3(address, environment, _texts(known))
    if address.scheme == "gs":
        token = known
        if not isinstance(known, str):
            token = environment.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        return common | ({"token": token} if token else {})
    return {"skip_instance_cache": True} | _azure(address, environment, _texts(known))


def _s3(address: Address, environment: Mapping[str, str], known: Mapping[str, str]) -> dict[str, Any]:
    if not known:
        names = {
            "key_id": "ACCESS_KEY_ID",
            "secret_key": "SECRET_ACCESS_KEY",
            "session_token": "SESSION_TOKEN",
        }
        known = {key: environment.get(f"AWS_{name}", "") for key, name in names.items()}
    client = {
        "region_name": known.get("region") or environment.get("AWS_DEFAULT_REGION", ""),
        "endpoint_url": address.endpoint,
    }
    found: dict[str, Any] = {
        "key": known.get("key_id", ""),
        "secret": known.get("secret_key", ""),
        "token": known.get("session_token", ""),
        "profile": known.get("profile", ""),
        "client_kwargs": {name: value for name, value in client.items() if value},
        "config_kwargs": {
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"max_attempts": 2},
            "s3": {"addressing_style": "path" if address.endpoint else "auto"},
        },
    }
    return {name: value for name, value in found.items() if value}


def _azure(address: Address, environment: Mapping[str, str], known: Mapping[str, str]) -> dict[str, Any]:
    account = known.get("account_str") or address.account or environment.get("AZURE_STORAGE_ACCOUNT", "")
    key = known.get("account_key") or environment.get("AZURE_STORAGE_KEY", "")
    found: dict[str, Any] = {"account_name": account}
    return found | ({"account_key": key} if key else {"anon": False})  # else a managed identity


def _entry(address: Address, content: bytes) -> object:
    """Return the entry with the longest prefix of the URL; "" is a prefix of every URL."""
    try:
        document = msgspec.json.decode(content)
        table = document.get(address.scheme, {})
        fitting = [prefix for prefix in table if _begins(address.url, prefix)]
    except (msgspec.DecodeError, AttributeError, TypeError) as error:
        raise InvalidInput(
            f"{CREDENTIAL_PATH} names a file that does not hold credentials by scheme and prefix as JSON",
            fix='Write {"s3": {"": {"key_id": …, "secret_key": …}}}.',
        ) from error
    if not fitting:
        return None
    return table[max(fitting, key=len)]


def _begins(url: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return not prefix or url == prefix or url.startswith(f"{prefix}/")


def _texts(entry: object) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise InvalidInput(f"{CREDENTIAL_PATH}: an entry is not an object of strings", field=CREDENTIAL_PATH)
    return entry
