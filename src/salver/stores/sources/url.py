"""Models from URLs.

The digest in ``https://host/m.onnx#sha256=…`` verifies the content and makes the URL an immutable pointer. An
archive of a folder is unpacked.
"""

import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Final

from salver.stores.sources.archives import card_of, is_archive, unpacked
from salver.stores.sources.downloading import Digest, parse_digest
from salver.stores.sources.fetched import FetchedModel, Progress
from salver.stores.sources.web import Web
from salver.words.errors import InvalidInput

_MOST_NAME: Final = 255


class UrlSource:
    """A :class:`~salver.stores.sources.Source`.

    Args:
        is_unverified: Whether a digest may be missing.

    Raises:
        InvalidInput: it names no file, or has no digest where one is needed.
    """

    def __init__(self, web: Web, url: str, *, is_unverified: bool = False) -> None:
        self._web = web
        plain, _, fragment = url.partition("#")
        self._url = plain
        self._digest = _digest_of(plain, fragment, is_unverified=is_unverified)
        self._name = _name_of(plain)

    def __repr__(self) -> str:
        return f"<UrlSource {self._name}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol."""
        file = folder / self._name
        sha256 = self._web.download(self._url, file, progress, digest=self._digest)
        path = file
        if is_archive(self._name):
            path = unpacked(file, folder / "unpacked")
        source = f"{_public(self._url)}#sha256={sha256}"
        return FetchedModel(path, source, card_of(path) if path.is_dir() else "")


def _digest_of(url: str, fragment: str, *, is_unverified: bool) -> Digest | None:
    key, _, value = fragment.partition("=")
    digest = parse_digest(f"{key}:{value.lower()}")
    if fragment and digest is None:
        raise InvalidInput(f"{_public(url)}: #{fragment[:40]} is not a digest", fix="Write #sha256=….")
    if digest is None and not is_unverified:
        raise InvalidInput(
            f"{_public(url)} has no digest",
            fix="Add #sha256=… to the URL, or take whatever comes: --unverified.",
        )
    return digest


def _name_of(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    except ValueError:
        name = ""
    is_fine = name.isprintable() and not name.startswith(".") and "\\" not in name and "/" not in name
    if not name or not is_fine or len(name.encode()) > _MOST_NAME:
        raise InvalidInput(
            f"{url[:_MOST_NAME]!r} ends with no file's name", fix="Write https://host/model.onnx."
        )
    return name


def _public(url: str) -> str:
    """Return a URL without a password or a temporary signature."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
