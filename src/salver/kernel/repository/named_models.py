"""Models that the operator configures by name, with the folder of their versions and settings. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from salver.words.artifacts import Batching, Logging, Manifest, ModelConfig, Versions

#: Batching of models whose requests run one by one.
NO_BATCHING: Final = Batching(enabled=False, has_rows=False)
_DEFAULT: Final = Batching()
#: Backends whose second instance would be a second process with the whole framework.
_WITH_OWN_THREADS: Final = frozenset({"tensorflow"})


class NamedModel(msgspec.Struct, frozen=True):
    """Model whose name and folder the operator configures.

    Attributes:
        path: Folder of its versions, on this machine or in an object store.
        versions: Versions to serve; None = those of its own configuration.
        labels: Labels of versions, in addition to those of its own configuration.
        default_label: Label for requests without a version; empty = that of its own configuration.
        platform: The operator's name of the platform; empty = not given.
        logging: Requests to log; None = those of its own configuration.
        is_requested: The path comes from a request, not from the operator.
        is_exact: Read only the ``specific`` versions, which are known to be complete.
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
    """Defaults of all named models, for what their own configurations do not set.

    Attributes:
        batching: Batching; None = the usual default.
        instances: Concurrent runs of backends with cheap instances; 0 = the usual default.
        has_own_batching: Each version's batching file decides; a version without one does not batch.
        options: Options by backend name.
        replays: Number of times that a SavedModel's warm-up records are run; 0 = never.
    """

    batching: Batching | None = None
    instances: int = 0
    has_own_batching: bool = False
    options: dict[str, dict[str, str]] = {}
    replays: int = 1


def configured(
    manifests: Iterable[Manifest], model: NamedModel, defaults: NamedModelDefaults
) -> Iterator[Manifest]:
    """Yield the versions of a model with the operator's settings.

    Versions are compared as numbers: version 7 may be in a folder ``00000007``.
    """
    found = list(manifests)
    spelled = {int(m.id.version): m.id.version for m in found if m.id.version.isdecimal()}

    def spell(version: str) -> str:
        return spelled.get(int(version), version)

    labels = {label: spell(version) for label, version in model.labels.items()}
    for manifest in found:
        config = manifest.config
        versions = model.versions or config.versions
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
        batching = defaults.batching
        if defaults.has_own_batching:
            batching = NO_BATCHING
    warmup = config.warmup
    if defaults.replays != 1 and warmup.replays == 1:
        warmup = msgspec.structs.replace(warmup, replays=defaults.replays)
    if not instances.count and backend not in _WITH_OWN_THREADS:
        instances = msgspec.structs.replace(instances, count=defaults.instances)
    return msgspec.structs.replace(
        config, batching=batching, instances=instances, options=options, warmup=warmup
    )
