"""Opening of sources by URL or folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from salver.stores.address import parse_address
from salver.stores.sources.bucket import BucketSource, open_bucket
from salver.stores.sources.distribution import Distribution, parse_reference
from salver.stores.sources.docker import docker_credentials
from salver.stores.sources.fetched import Source
from salver.stores.sources.huggingface import by_name, cache_of, of_folder
from salver.stores.sources.mlflow import MlflowFolder, is_mlflow
from salver.stores.sources.mlflow_registry import MlflowServer, MlflowSource, authorization, parse_uri
from salver.stores.sources.oci import OciSource
from salver.stores.sources.url import UrlSource
from salver.stores.sources.web import Web
from salver.words.errors import InvalidInput

_BUCKETS: Final = ("s3://", "gs://", "as://")
_SCHEMES: Final = (
    "https://host/file#sha256=…, s3://bucket/path, models:/name@alias (MLflow), oci://host/name:tag, "
    "hf://org/name@revision, a file or a folder"
)


class Options(msgspec.Struct, frozen=True):
    """Options of a source.

    Attributes:
        is_unverified: Whether URLs need no digest.
    """

    is_unverified: bool = False
    environment: Mapping[str, str] = os.environ


def is_source(text: str) -> bool:
    """Return whether a path must be fetched; others are models as they are. Blocking."""
    if "://" in text or text.startswith("models:/"):
        return True
    folder = Path(text)
    return folder.is_dir() and (is_mlflow(folder) or of_folder(folder) is not None)


def open_source(text: str, options: Options) -> Source:
    """Return the source of a URL or folder, without fetching anything.

    Raises:
        InvalidInput: there is no such kind of source, or its address is wrong.
        MissingExtra: the package for such a source is not installed.
    """
    web, environment = Web(), options.environment
    if text.startswith(("https://", "http://")):
        return UrlSource(web, text, is_unverified=options.is_unverified)
    if text.startswith(_BUCKETS):
        return BucketSource(open_bucket(text, environment))
    if text.startswith("oci://"):
        reference = parse_reference(text.removeprefix("oci://"))
        return OciSource(Distribution(web, reference, docker_credentials(environment)))
    if text.startswith("hf://"):
        return by_name(text.removeprefix("hf://"), cache_of(environment))
    if text.startswith("models:/"):
        server = MlflowServer(web, environment.get("MLFLOW_TRACKING_URI", ""), authorization(environment))
        return MlflowSource(server, parse_uri(text), lambda place: _of_mlflow(place, options))
    folder = Path(text)
    if "://" not in text and (snapshot := of_folder(folder)):
        return snapshot
    if "://" not in text and is_mlflow(folder):
        return MlflowFolder(folder)
    raise InvalidInput(f"{text[:200]!r} is not a known source of models", fix=f"Give one of: {_SCHEMES}.")


def _of_mlflow(place: str, options: Options) -> Source:
    """Return the source of artefacts that an MLflow server does not serve itself.

    The author of a run chooses this location, so it must not lead to hosts that only this machine can reach.
    """
    if place.startswith(("s3://", "gs://")) and not parse_address(place).endpoint:
        return open_source(place, options)
    raise InvalidInput(
        f"the MLflow server has the artefacts at {place[:200]!r}, which is not read",
        fix="Start it with --serve-artifacts, or import the folder itself where it can be seen.",
    )
