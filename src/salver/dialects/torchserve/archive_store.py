"""Store of archives: finds the archive that a registration names (TS-M1).

It is a file or folder of the model store, a file of this machine, or a download into the store, if the
operator's list of allowed URLs has it. Names and URLs are untrusted. Archives are not read here.
"""

import contextlib
import os
import re
import secrets
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from salver.kernel.repository.names import is_visible
from salver.stores.sources.downloading import TooLarge
from salver.stores.sources.web import Web
from salver.words.errors import BadArchive, Conflict, InvalidInput, LoadFailed, NoDownload, NoModel

#: TorchServe's default.
ANY_URL: Final = (r"file?://.*|http(s)?://.*",)
_IS_URL: Final = re.compile(r"file?://.*|http(s)?://.*", re.IGNORECASE)
_MOST_NAME: Final = 255
_MOST_URL: Final = 8192
_PART: Final = ".part"
_KMS: Final[Mapping[str, str]] = {"x-amz-server-side-encryption": "aws:kms"}
_ARCHIVES: Final = (".mar", ".model")


class ArchiveStoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sources of archives.

    Attributes:
        store: Folder of the model store; empty = none.
        allowed_urls: Regular expressions that match whole URLs, in any case.
        most_bytes: Maximum bytes of a download.
        download_s: Maximum seconds of a download.
    """

    store: str = ""
    allowed_urls: tuple[str, ...] = ANY_URL
    most_bytes: int = 32 << 30
    download_s: float = 1800.0

    def __post_init__(self) -> None:
        """Check the patterns. Raises InvalidInput."""
        for pattern in self.allowed_urls:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidInput(
                    f"allowed_urls: {pattern!r} is not a valid regular expression: {error}",
                    field="allowed_urls",
                ) from error


class FoundArchive(msgspec.Struct, frozen=True):
    """An archive on this machine; ``is_ours`` = downloaded, to be deleted with its registration."""

    path: Path
    is_ours: bool = False


class ArchiveStore:
    """Archives of the model store, of this machine and of the network. Thread-safe."""

    def __init__(self, config: ArchiveStoreConfig) -> None:
        self._config = config
        self._web = Web(follows=self._follows)
        self._allowed = [re.compile(pattern, re.IGNORECASE) for pattern in config.allowed_urls]

    def __repr__(self) -> str:
        return f"<ArchiveStore {self._config.store}>"

    def find(self, url: str, *, is_encrypted: bool = False) -> FoundArchive:
        """Return the archive of a registration. Blocking; downloads.

        Args:
            is_encrypted: Whether the store behind the URL encrypts it with a key of its own (``s3_sse_kms``).

        Raises:
            NoModel: it does not exist, or may not be registered.
            NoDownload: it cannot be downloaded.
            Conflict: the store has a file of its name already.
            BadArchive: it is too large.
        """
        if not url:
            raise NoModel("empty url", field="url")
        if len(url) > _MOST_URL or not url.isprintable():
            raise NoModel(f"Model not found at: {url[:_MOST_NAME]!r}", field="url")
        if _IS_URL.fullmatch(url) and not self.is_allowed(url):
            raise NoModel(f"Given URL {url} does not match any allowed URL(s)", field="url")
        if ".." in url:  # wherever it is, as in TorchServe
            raise NoModel(f"Relative path is not allowed in url: {url}", field="url")
        if not _IS_URL.fullmatch(url):
            return self._in_store(url)
        try:
            split = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise NoDownload(f"Failed to download archive from: {url}", field="url") from error
        if split.scheme in ("http", "https"):
            headers = _KMS if is_encrypted else {}
            return self._download(url, _name_of(split.path, url), headers)
        return self._local(split, url)

    def everything(self) -> tuple[str, ...]:
        """Return the archives and folders of the store, sorted by name (``load_models=all``). Blocking.

        Raises:
            InvalidInput: the store cannot be read.
        """
        try:
            entries = sorted(os.scandir(self._config.store), key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or error
            raise InvalidInput(f"the model store {self._config.store} cannot be read: {reason}") from error
        mine = [e.name for e in entries if is_visible(e.name) and (e.is_dir() or e.name.endswith(_ARCHIVES))]
        return tuple(mine)

    def is_allowed(self, url: str) -> bool:
        """Return whether the operator's list has a URL."""
        return any(pattern.fullmatch(url) for pattern in self._allowed)

    def discard(self, found: FoundArchive) -> None:
        """Delete a download that is no longer needed. Blocking."""
        if found.is_ours:
            with contextlib.suppress(OSError):
                found.path.unlink()

    def _local(self, split: urllib.parse.SplitResult, url: str) -> FoundArchive:
        path = Path(urllib.parse.unquote(split.path))
        if split.netloc not in ("", "localhost") or not path.is_absolute() or not _is_there(path):
            raise NoDownload(f"Failed to download archive from: {url}", field="url")
        return FoundArchive(path)

    def _in_store(self, url: str) -> FoundArchive:
        """Return a file or folder of the store, by path or, as in TorchServe, by a path's last part."""
        missing = NoModel(
            f"Model not found at: {url}",
            field="url",
            fix="Name a file or folder of the model store, or a URL that begins with http, https or file.",
        )
        if not self._config.store:
            raise NoModel("Model store has not been configured.", field="url")
        if "://" in url:
            raise missing
        store = Path(self._config.store).resolve()
        for path in (store / url, store / PurePosixPath(url).name):
            if path != store and path.is_relative_to(store) and _is_there(path):
                return FoundArchive(path)
        raise missing

    def _download(self, url: str, name: str, headers: Mapping[str, str]) -> FoundArchive:
        if not self._config.store:
            raise NoModel("Model store has not been configured.", field="url")
        target = Path(self._config.store, name)
        if target.exists():
            raise Conflict(
                f"Model file already exists {name}", field="url", fix=f"Register url={name}, or remove it."
            )
        # Hidden, so that a scan of the store does not find an incomplete file.
        aside = target.with_name(f".{name[:100]}-{secrets.token_hex(8)}{_PART}")
        self._sweep(target.parent)
        try:
            self._web.download(
                url, aside, headers=headers, most=self._config.most_bytes, seconds=self._config.download_s
            )
            try:
                os.link(aside, target)  # fails if another file has come to be there meanwhile
            except OSError as error:
                if isinstance(error, FileExistsError) or target.exists():
                    raise Conflict(f"Model file already exists {name}", field="url") from error
                aside.rename(target)  # the file system has no links
        except TooLarge as error:
            raise BadArchive(f"The archive is too large: {error.message}", field="url") from error
        except (LoadFailed, OSError) as error:
            reason = error.message if isinstance(error, LoadFailed) else error
            raise NoDownload(
                f"Failed to download archive from: {url}", field="url", fix=f"Reason: {reason}."
            ) from error
        finally:
            aside.unlink(missing_ok=True)
        return FoundArchive(target, is_ours=True)

    def _sweep(self, store: Path) -> None:
        """Delete downloads of killed servers, once they are too old to be under way."""
        for left in store.glob(f".*-{'[0-9a-f]' * 16}{_PART}"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < time.time() - 2 * self._config.download_s:
                    left.unlink()

    def _follows(self, here: str, there: str) -> bool:
        return self.is_allowed(there)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _name_of(path: str, url: str) -> str:
    """Return the name of a download in the store."""
    name = PurePosixPath(urllib.parse.unquote(path)).name
    if not name or len(name) > _MOST_NAME or not name.isprintable() or not is_visible(name):
        raise NoDownload(
            f"Failed to download archive from: {url}", field="url", fix="Its path must end with a file name."
        )
    return name
