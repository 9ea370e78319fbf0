"""Models that an operator names, each with the folder of its versions, and their settings. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from salver.words.artifacts import Batching, Logging, Manifest, ModelConfig, Versions

#: Requests run as they come, whatever axis 0 is.
NO_BATCHING: Final = Batching(enabled=False, has_rows=False)
_DEFAULT: Final = Batching()
#: Backends whose further instance is a further process with the whole framework.
_WITH_OWN_THREADS: Final = frozenset({"tensorflow"})


class NamedModel(msgspec.Struct, frozen=True):
    """A model whose name and folder its operator gives, rather than the repository.

    Attributes:
        path: Folder of its versions, on this machine or in an object store.
        versions: Versions to serve; None = as its own configuration says.
        labels: Labels of versions, beside those of its own configuration.
        default_label: The label for requests that name no version; empty = as its configuration says.
        platform: As the operator calls it; empty = not said.
        logging: Which requests are logged; None = as its own configuration says.
        is_requested: A request named the path, and no operator did.
        is_exact: Only the ``specific`` versions are read, and they are complete.
    """

    name: str
    path: str
    versions: Versions | None = None
    labels: dict[str, str] = {}
    default_label: str = ""
    platform: str = ""
    logging: Logging | None = None
    is_requested: bool = False
    is_exact: bool = False

    @property
    def only(self) -> frozenset[str]:
        """Return the versions to read; empty = all."""
        if self.is_exact and self.versions:
            return frozenset(self.versions.specific)
        return frozenset()


class NamedModelDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of all named models, where their own configurations say nothing.

    Attributes:
        batching: How requests share runs; None = as usual.
        instances: Concurrent runs, of backends whose instances are cheap; 0 = as usual.
        has_own_batching: A version's own file of batching parameters holds; one without it does not batch.
        options: Options by the backend's name.
        replays: How often warm-up records of a SavedModel are run; 0 = never.
    """

    batching: Batching | None = None
    instances: int = 0
    has_own_batching: bool = False
    options: dict[str, dict[str, str]] = {}
    replays: int = 1


def configured(
    manifests: Iterable[Manifest], model: NamedModel, defaults: NamedModelDefaults
) -> Iterator[Manifest]:
    """Yield the versions of a model as its operator wants them.

    Numbers are compared as numbers: version 7 may lie in a folder ``00000007``.
    """
    found = list(manifests)
    spelled = {int(m.id.version): m.id.version for m in found if m.id.version.isdecimal()}

    def spell(version: str) -> str:
        return spelled.get(int(version), version)

    labels = {label: spell(version) for label, version in model.labels.items()}
    for manifest in found:
        config = manifest.config
        versions = model.versions if model.versions is not None else config.versions
        if versions.specific:
            specific = tuple(spell(v) if v.isdecimal() else v for v in versions.specific)
            versions = msgspec.structs.replace(versions, specific=specific)
        config = msgspec.structs.replace(
            config,
            versions=versions,
            labels={**config.labels, **labels},
            default_label=model.default_label or config.default_label,
        )
        fingerprint = manifest.fingerprint
        if model.logging is not None:
            config = msgspec.structs.replace(config, logging=model.logging)
            fingerprint = f"{fingerprint} {model.logging}"  # takes effect at once, without a reload (TF-L6)
        yield msgspec.structs.replace(
            manifest, config=_with_defaults(config, manifest.backend, defaults), fingerprint=fingerprint
        )


def _with_defaults(config: ModelConfig, backend: str, defaults: NamedModelDefaults) -> ModelConfig:
    batching, options = config.batching, {**defaults.options.get(backend, {}), **config.options}
    instances = config.instances
    if batching == _DEFAULT and defaults.batching is not None:
        batching = NO_BATCHING if defaults.has_own_batching else defaults.batching
    warmup = config.warmup
    if defaults.replays != 1 and warmup.replays == 1:
        warmup = msgspec.structs.replace(warmup, replays=defaults.replays)
    if not instances.count and backend not in _WITH_OWN_THREADS:
        instances = msgspec.structs.replace(instances, count=defaults.instances)
    return msgspec.structs.replace(
        config, batching=batching, instances=instances, options=options, warmup=warmup
    )
