"""Models from MLflow registries.

``models:/name/7``, ``models:/name@champion`` and ``models:/name/latest`` are read over the server's REST
interface (2.0), with the version's description, tags, run and metrics. MLflow itself is not needed. Artefacts
that the server does not serve itself are read from an object store.
"""

import base64
import math
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.encoding.lenient import mapping, sequence
from salver.stores import StoreFailed
from salver.stores.protocol import checked
from salver.stores.sources.archives import card_of
from salver.stores.sources.connecting import without_user
from salver.stores.sources.fetched import FetchedModel, Progress, Source
from salver.stores.sources.mlflow import arrange, parents_of
from salver.stores.sources.web import Web, origin
from salver.stores.unpack import MOST_BYTES, room_in
from salver.words.errors import InvalidInput, LoadFailed

_URI: Final = re.compile(r"models:/+(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]{1,18}|latest))")
_API: Final = "api/2.0/mlflow"
_ARTIFACTS: Final = "api/2.0/mlflow-artifacts/artifacts"
_MOST_FILES: Final = 10_000
_MOST_DEPTH: Final = 16
_MOST_NAME: Final = 255  # bytes
_MOST_TAGS: Final = 200
_MOST_WORDS: Final = 4000
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/ -]{0,127}", re.ASCII)


class ModelUri(msgspec.Struct, frozen=True):
    """A ``models:/`` URI: an alias, a version, or (neither) the newest."""

    name: str
    alias: str = ""
    version: str = ""


def parse_uri(text: str) -> ModelUri:
    """Parse a URI.

    Raises:
        InvalidInput: it is none.

    >>> parse_uri("models:/fraud@champion").alias, parse_uri("models:/fraud/7").version
    ('champion', '7')
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{text[:200]!r} names no version of a registered model",
            fix="Write models:/name/7, models:/name@alias, or models:/name/latest.",
        )
    version = match["version"] or ""
    name = urllib.parse.unquote(match["name"])
    return ModelUri(name, match["alias"] or "", "" if version == "latest" else version)


def authorization(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the authorization header by the variables that MLflow reads."""
    if token := environment.get("MLFLOW_TRACKING_TOKEN", ""):
        return {"Authorization": f"Bearer {token}"}
    if name := environment.get("MLFLOW_TRACKING_USERNAME", ""):
        pair = f"{name}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


class MlflowServer:
    """REST interface of a server. Blocking.

    Args:
        url: URL as in ``MLFLOW_TRACKING_URI``.

    Raises:
        InvalidInput: it is no URL of a server.
    """

    def __init__(self, web: Web, url: str, headers: Mapping[str, str]) -> None:
        if origin(url)[0] not in ("http", "https"):
            raise InvalidInput(
                f"{url[:200]!r} is not the URL of an MLflow server",
                fix="Set MLFLOW_TRACKING_URI=https://host, or import the model's folder.",
            )
        self._web = web
        plain, ours = without_user(url)
        self.url = plain.rstrip("/")  # stored with the version, so it has no password
        self._headers = {**ours, **headers}

    def __repr__(self) -> str:
        return f"<MlflowServer {self.url}>"

    def version(self, uri: ModelUri) -> Mapping[str, Any]:
        """Return the server's description of a version. Raises StoreFailed."""
        if uri.alias:
            return self._one("registered-models/alias", "model_version", name=uri.name, alias=uri.alias)
        if uri.version:
            return self._one("model-versions/get", "model_version", name=uri.name, version=uri.version)
        quoted = uri.name.replace("'", "\\'")
        found = self._get(
            f"{_API}/model-versions/search",
            filter=f"name='{quoted}'",
            order_by="version_number DESC",
            max_results="1",
        ).get("model_versions")
        if not isinstance(found, list) or not found or not isinstance(found[0], dict):
            raise StoreFailed(f"{self.url} has no version of {uri.name!r}")
        return found[0]

    def place(self, name: str, version: str) -> str:
        """Return the URI of a version's artefacts. Raises StoreFailed."""
        found = self._get(f"{_API}/model-versions/get-download-uri", name=name, version=version)
        return str(found.get("artifact_uri") or "")

    def run(self, id: str) -> Mapping[str, Any]:
        """Return the run that made a version; empty if it is deleted."""
        try:
            return self._one("runs/get", "run", run_id=id)
        except StoreFailed:
            return {}

    def files(self, folder: str) -> Mapping[str, int]:
        """Return sizes by path below a folder that the server serves. Raises StoreFailed."""
        found: dict[str, int | None] = {}
        self._walk(folder, "", found, 0)
        return {path: size for path, size in found.items() if size is not None}

    def download(self, folder: str, path: str, size: int, target: Path, progress: Progress) -> None:
        """Write one of the files into a new file. Raises StoreFailed, LoadFailed."""
        url = f"{self.url}/{_ARTIFACTS}/{urllib.parse.quote(f'{folder}/{path}'.strip('/'))}"
        self._web.download(url, target, progress, size=size, headers=self._headers)

    def _walk(self, folder: str, below: str, found: dict[str, int | None], depth: int) -> None:
        said = self._get(_ARTIFACTS, path=f"{folder}/{below}".strip("/")).get("files") or []
        for entry in sequence(said):
            name = ""
            if isinstance(entry, dict):
                name = str(entry.get("path", "")).rpartition("/")[2]
            is_none = name in ("", ".", "..") or len(name.encode(errors="replace")) > _MOST_NAME
            if is_none or not checked(name).isprintable():
                raise StoreFailed(f"{self.url} lists a file with an invalid path: {str(entry)[:200]}")
            path = f"{below}/{name}" if below else name
            if path in found:
                raise StoreFailed(f"{self.url} names {path} twice")
            if entry.get("is_dir"):
                if depth >= _MOST_DEPTH:
                    raise StoreFailed(f"{self.url}: {path} is deeper than {_MOST_DEPTH} folders")
                found[path] = None
            else:
                try:
                    found[path] = max(0, int(entry.get("file_size") or 0))
                except (TypeError, ValueError) as error:
                    raise StoreFailed(f"{self.url}: {path} has no size") from error
            if len(found) > _MOST_FILES:
                raise StoreFailed(f"{self.url}: the model has more than {_MOST_FILES} files and folders")
            if entry.get("is_dir"):
                self._walk(folder, path, found, depth + 1)

    def _one(self, path: str, key: str, **query: str) -> Mapping[str, Any]:
        found = self._get(f"{_API}/{path}", **query).get(key)
        if not isinstance(found, dict):
            raise StoreFailed(f"{self.url}/{path} says nothing of a {key}")
        return found

    def _get(self, at: str, **query: str) -> Mapping[str, Any]:
        return self._web.json(f"{self.url}/{at}?{urllib.parse.urlencode(query)}", self._headers)


class MlflowSource:
    """A :class:`~salver.stores.sources.Source` over one name of an MLflow registry.

    Args:
        elsewhere: Returns the source of artefacts that the server does not serve itself, by URI.
    """

    def __init__(self, server: MlflowServer, uri: ModelUri, elsewhere: Callable[[str], Source]) -> None:
        self._server = server
        self._uri = uri
        self._elsewhere = elsewhere

    def __repr__(self) -> str:
        return f"<MlflowSource {self._uri.name} of {self._server.url}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol. An alias is resolved once; the version's number is the pointer."""
        version = self._server.version(self._uri)
        number, run_id = str(version.get("version", "")), str(version.get("run_id") or "")
        if not number.isdecimal():
            raise StoreFailed(f"{self._server.url} names no version of {self._uri.name!r}")
        place = self._server.place(self._uri.name, number)
        if place.startswith("mlflow-artifacts:"):
            raw = self._downloaded(place, folder / "files", progress)
        else:
            raw = _folder_of(self._elsewhere(place).fetch(folder, progress).path)
        path, said = arrange(raw, folder / "model")
        data = None
        if run_id:
            data = self._server.run(run_id).get("data")
        tags = {
            **said.tags,
            **_pairs(version.get("tags")),
            "mlflow.tracking_uri": self._server.url,
        }
        return FetchedModel(
            path,
            f"models:/{urllib.parse.quote(self._uri.name)}/{number}",
            card_of(path) or str(version.get("description") or ""),
            dict(list(tags.items())[:_MOST_TAGS]),
            _metrics(mapping(data).get("metrics")),
            parents_of(run_id),
        )

    def _downloaded(self, place: str, root: Path, progress: Progress) -> Path:
        parts = urllib.parse.urlsplit(place)
        base = urllib.parse.unquote(parts.path).strip("/")
        files = self._server.files(base)
        size = sum(files.values())
        root.mkdir()
        if not files:
            raise StoreFailed(f"{self._server.url} has no files of {self._uri.name!r}")
        if size > min(MOST_BYTES, room_in(root)):
            raise LoadFailed(f"{self._uri.name!r} has {size} bytes, and there is room for {room_in(root)}")
        for path, length in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            self._server.download(base, path, length, root / path, progress)
        return root


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _pairs(said: Any) -> dict[str, str]:
    """Return the tags that can be stored; long or odd ones are left out."""
    some = sequence(said)
    pairs = ((each.get("key"), each.get("value")) for each in some if isinstance(each, dict))
    return {
        key: value
        for key, value in pairs
        if isinstance(key, str) and isinstance(value, str) and _KEY.fullmatch(key) and _is_kept(value)
    }


def _is_kept(value: str) -> bool:
    return len(value) <= _MOST_WORDS and "\0" not in value


def _metrics(said: Any) -> dict[str, float]:
    """Return the last value of each metric; other values than numbers are left out."""
    found = {}
    for each in sequence(said):
        name, value = mapping(each).get("key"), mapping(each).get("value")
        if isinstance(name, str) and _KEY.fullmatch(name) and isinstance(value, int | float):
            found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}
