"""Where does the archive that a registration names lie (TS-M1)?

A file or folder of the model store, a file of this machine, or one to download into the store first, where
the operator's list of allowed URLs has it. Names and URLs come from outside. What is in an archive is not
known here.
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

#: As TorchServe has it where its configuration says nothing.
ANY_URL: Final = (r"file?://.*|http(s)?://.*",)
_IS_URL: Final = re.compile(r"file?://.*|http(s)?://.*", re.IGNORECASE)
_MOST_NAME: Final = 255
_MOST_URL: Final = 8192
_PART: Final = ".part"
_KMS: Final[Mapping[str, str]] = {"x-amz-server-side-encryption": "aws:kms"}
_ARCHIVES: Final = (".mar", ".model")


class ShelfConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where archives may come from.

    Attributes:
        store: Folder of the model store; empty = there is none.
        allowed_urls: Regular expressions; a URL matches one of them as a whole, in any case.
        most_bytes: Of a download.
        download_s: It may take so long.
    """

    store: str = ""
    allowed_urls: tuple[str, ...] = ANY_URL
    most_bytes: int = 32 << 30
    download_s: float = 1800.0

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        for pattern in self.allowed_urls:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidInput(
                    f"allowed_urls: {pattern!r} is no regular expression: {error}", field="allowed_urls"
                ) from error


class FoundArchive(msgspec.Struct, frozen=True):
    """An archive on this machine; ``is_ours``: it was downloaded, and goes with its registration."""

    path: Path
    is_ours: bool = False


class Shelf:
    """Finds archives. Any thread may call."""

    def __init__(self, config: ShelfConfig) -> None:
        self._config = config
        self._web = Web(follows=self._follows)
        self._allowed = [re.compile(pattern, re.IGNORECASE) for pattern in config.allowed_urls]

    def __repr__(self) -> str:
        return f"<Shelf {self._config.store}>"

    def find(self, url: str, *, is_encrypted: bool = False) -> FoundArchive:
        """What a registration names. Blocking; downloads.

        Args:
            is_encrypted: By a key of the store that the URL leads to (``s3_sse_kms``).

        Raises:
            NoModel: there is nothing, or nothing that may be registered.
            NoDownload: it cannot be had from there.
            Conflict: a file of its name is in the store already.
            BadArchive: it is too large.
        """
        if not url:
            raise NoModel("empty url", field="url")
        if len(url) > _MOST_URL or not url.isprintable():
            raise NoModel(f"Model not found at: {url[:_MOST_NAME]!r}", field="url")
        if _IS_URL.fullmatch(url) and not self.is_allowed(url):
            raise NoModel(f"Given URL {url} does not match any allowed URL(s)", field="url")
        if ".." in url:
            raise NoModel(f"Relative path is not allowed in url: {url}", field="url")
        if not _IS_URL.fullmatch(url):
            return self._in_store(url)
        try:
            split = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise NoDownload(f"Failed to download archive from: {url}", field="url") from error
        if split.scheme in ("http", "https"):
            return self._downloaded(url, _name_of(split.path, url), _KMS if is_encrypted else {})
        return self._local(split, url)

    def everything(self) -> tuple[str, ...]:
        """The archives and folders of the store, by name (``load_models=all``). Blocking.

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
        """Has the operator's list it?"""
        return any(pattern.fullmatch(url) for pattern in self._allowed)

    def discard(self, found: FoundArchive) -> None:
        """A download is not needed any more. Blocking."""
        if found.is_ours:
            with contextlib.suppress(OSError):
                found.path.unlink()

    def _local(self, split: urllib.parse.SplitResult, url: str) -> FoundArchive:
        path = Path(urllib.parse.unquote(split.path))
        if split.netloc not in ("", "localhost") or not path.is_absolute() or not _is_there(path):
            raise NoDownload(f"Failed to download archive from: {url}", field="url")
        return FoundArchive(path)

    def _in_store(self, url: str) -> FoundArchive:
        """A file or folder of the store, by its path in it or, as in TorchServe, by a path's last part."""
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

    def _downloaded(self, url: str, name: str, headers: Mapping[str, str]) -> FoundArchive:
        failed = f"Failed to download archive from: {url}"
        if not self._config.store:
            raise NoModel("Model store has not been configured.", field="url")
        target = Path(self._config.store, name)
        if target.exists():
            raise Conflict(
                f"Model file already exists {name}", field="url", fix=f"Register url={name}, or remove it."
            )
        aside = target.with_name(f".{name[:100]}-{secrets.token_hex(8)}{_PART}")
        self._sweep(target.parent)
        try:
            self._web.download(
                url, aside, headers=headers, most=self._config.most_bytes, seconds=self._config.download_s
            )
            try:
                os.link(aside, target)  # and never over what somebody else has put there meanwhile
            except FileExistsError as error:
                raise Conflict(f"Model file already exists {name}", field="url") from error
            except OSError as error:  # the store is on a file system without links
                if target.exists():
                    raise Conflict(f"Model file already exists {name}", field="url") from error
                aside.rename(target)
        except TooLarge as error:
            raise BadArchive(f"The archive is too large: {error.message}", field="url") from error
        except (LoadFailed, OSError) as error:
            said = error.message if isinstance(error, LoadFailed) else str(error)
            raise NoDownload(failed, field="url", fix=f"It said: {said}.") from error
        finally:
            aside.unlink(missing_ok=True)
        return FoundArchive(target, is_ours=True)

    def _sweep(self, store: Path) -> None:
        """Downloads that were killed go, when they can be under way no more."""
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
    """What a download is called in the store."""
    name = PurePosixPath(urllib.parse.unquote(path)).name
    if not name or len(name) > _MOST_NAME or not name.isprintable() or not is_visible(name):
        raise NoDownload(
            f"Failed to download archive from: {url}", field="url", fix="Its path ends with no file's name."
        )
    return name
