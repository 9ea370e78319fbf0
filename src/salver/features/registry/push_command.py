"""``salver registry push``: add a model from any source as the next version."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from salver.features.registry import upkeep_command as registry_keeping
from salver.features.registry.command_options import (
    USUAL,
    Pairs,
    RegistryOptions,
    Why,
    numbers_of,
    pairs_of,
    run,
)
from salver.terminal.options import Json
from salver.terminal.output import remark, result, under_way
from salver.words.errors import InvalidInput, SalverError
from salver.words.sizes import told_bytes

if TYPE_CHECKING:
    from salver.features.registry.records import Actor, NewVersion, Parent, Version
    from salver.features.registry.registry import ModelRegistry
    from salver.stores.sources import FetchedModel


def push(
    source: str,
    /,
    *,
    name: Annotated[str, Parameter(help="Name of the model.")],
    alias: Annotated[str, Parameter(help="Alias to point to it, such as champion.")] = "",
    take: Annotated[str, Parameter(help="Only this file or folder of SOURCE, such as onnx/model.onnx.")] = "",
    card: Annotated[
        Path | None,
        Parameter(
            help="README of the model, optionally with YAML front matter (default: the source's README.md)."
        ),
    ] = None,
    tag: Pairs = (),
    metric: Annotated[tuple[str, ...], Parameter(help="NAME=NUMBER, repeatable.")] = (),
    parent: Annotated[
        tuple[str, ...],
        Parameter(help="Origin: version:NAME/7, data:… or run:…, repeatable."),
    ] = (),
    why: Why = "",
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    unloaded: Annotated[
        bool, Parameter(help="Do not load it; its signature, and whether it loads, are then unknown.")
    ] = False,
    unverified: Annotated[bool, Parameter(help="Accept a URL without a digest.")] = False,
    compress: Annotated[
        bool,
        Parameter(
            help="In an object store, compress the files (zstd) that are then fetched faster, by measurement."
        ),
    ] = False,
    state_dir: Annotated[str | None, Parameter(help="Folder of profiles, as in salver serve.")] = None,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Push a model to the registry as its next version.

    It is loaded once, in a separate process, to determine its signature and to reject a model that does not
    load. Files beside the artefact are included: salver.toml, labels, warm-up data.

    Args:
        source: A model file, or the folder of one model (also of MLflow, or a snapshot of Hugging Face);
            https://host/file#sha256=…, s3://bucket/path, oci://host/name:tag, models:/name@alias of an MLflow
            server (MLFLOW_TRACKING_URI), or hf://org/name@revision of the cache on this machine.
    """
    parents = _parents(parent)
    with _at_hand(source, take, is_unverified=unverified) as (fetched, path):
        order = _order(fetched, card, parents, pairs_of(tag, "--tag"), numbers_of(metric, "--metric"))
        order = msgspec.structs.replace(order, model=name, alias=alias, why=why)

        async def work(registry: "ModelRegistry", actor: "Actor") -> "Version":
            if compress:
                registry.artifacts.compress()
            looks = registry_keeping.inspector(state_dir, trust_pickle=trust_pickle, loads=not unloaded)
            with under_way(f"reading {name}" if unloaded else f"loading {name} once"):
                found = await looks(path)
            for notice in found.description.notices:
                remark(f"note: {notice}")
            size = sum(file.stat().st_size for file in found.files.values())
            with under_way(f"copying {len(found.files)} files, {told_bytes(size)}"):
                version = await registry.push(order, found, actor)
            for notice in registry.artifacts.notices:
                remark(notice)
            return version

        version = run(where, work, makes=True)
    names = "".join(f" {name}@{alias}" for alias in version.aliases)
    result(version, f"{version.model}/{version.number} {version.digest}{names}", json=json)


@contextlib.contextmanager
def _at_hand(source: str, take: str, *, is_unverified: bool) -> Iterator[tuple["FetchedModel", Path]]:
    """Make the model available on this machine until the version is created; return path and source."""
    from salver.stores.sources import FetchedModel
    from salver.stores.sources.archives import card_of
    from salver.stores.sources.opening import Options, is_source, open_source

    if not is_source(source):
        path = Path(source)
        yield FetchedModel(path, str(path.absolute()), card_of(path)), _taken(path, take)
        return
    opened = open_source(source, Options(is_unverified))
    with tempfile.TemporaryDirectory(prefix="salver-push-", ignore_cleanup_errors=True) as folder:
        shown = _DownloadProgress(is_seen=sys.stderr.isatty())
        try:
            fetched = opened.fetch(Path(folder), shown)
        finally:
            shown.end()
        path = _as_version(_taken(fetched.path, take), Path(folder) / "versions")
        try:
            yield fetched, path
        except SalverError as error:
            for here in (path / "1", path):
                error.message = error.message.replace(str(here), fetched.source)
            raise


def _order(
    fetched: "FetchedModel",
    card: Path | None,
    parents: tuple["Parent", ...],
    tags: dict[str, str],
    metrics: dict[str, float],
) -> "NewVersion":
    """Merge the source's own data with the command's options, which take precedence."""
    from salver.features.registry.records import NewVersion, Parent

    try:
        text = fetched.card
        if card:
            text = card.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the card {card} cannot be read: {error}") from error
    return NewVersion(
        "",
        tags={**fetched.tags, **tags},
        metrics={**fetched.metrics, **metrics},
        parents=(*(Parent(*each) for each in fetched.parents), *parents),
        card=text,
        source=fetched.source,
    )


def _parents(given: tuple[str, ...]) -> tuple["Parent", ...]:
    from salver.features.registry.records import Parent

    parents = []
    for text in given:
        kind, _, reference = text.partition(":")
        if kind not in ("version", "data", "run") or not reference:
            raise InvalidInput(f"--parent {text!r} is not version:…, data:… or run:…")
        parents.append(Parent(kind, reference))  # type: ignore[arg-type]
    return tuple(parents)


def _as_version(path: Path, home: Path) -> Path:
    """Arrange the files as in the registry, so that folders beside the artefact are not taken for models."""
    from salver.kernel.repository.names import is_padded_version
    from salver.kernel.repository.settings import TOML
    from salver.parts import formats

    configs = (TOML, *formats(lambda path: None).configs)
    if path.is_file() or any(is_padded_version(e.name) or e.name in configs for e in path.iterdir()):
        return path
    home.mkdir()
    path.rename(home / "1")
    return home


def _taken(path: Path, take: str) -> Path:
    wanted = path / take
    if take and (".." in Path(take).parts or not wanted.is_relative_to(path) or not wanted.exists()):
        raise InvalidInput(f"--take {take}: there is no such file or folder in the upload")
    return wanted


class _DownloadProgress:
    """Progress of a download, in one line of a terminal."""

    def __init__(self, *, is_seen: bool) -> None:
        self._is_seen = is_seen
        self._last = ""

    def __call__(self, what: str, done: int, whole: int) -> None:
        """See :data:`salver.stores.sources.Progress`."""
        part = told_bytes(done)
        if whole:
            part = f"{done * 100 // whole} % of {told_bytes(whole)}"
        if self._is_seen and part != self._last:
            self._last = part
            sys.stderr.write(f"\r\x1b[K{what[-60:]}: {part}")
            sys.stderr.flush()

    def end(self) -> None:
        """Erase the line."""
        if self._last:
            sys.stderr.write("\r\x1b[K")
            self._last = ""
