"""Where does a model lie that its operator names, rather than its folder?

TensorFlow Serving's way: a name, the folder of its versions, and what is to be known of them, told from
outside. Any format may lie there, and a configuration beside the versions holds where nothing is said here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from salver.dialects.tensorflow.batching_parameters import NO_BATCHING
from salver.words.artifacts import Batching, Logging, Manifest, ModelConfig, Versions
from salver.words.errors import FailedPrecondition, InvalidInput, Unsupported
from salver.words.messages import ModelId

#: The one platform; what lies under a base path is recognised by its content.
PLATFORM: Final = "tensorflow"
_CUSTOM: Final = "Missing custom_model_config_loader in ServerCore Options"
_DEFAULT: Final = Batching()
#: A further instance of theirs is a further process, with the whole framework.
_WITH_OWN_THREADS: Final = frozenset({"tensorflow"})
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")


class Place(msgspec.Struct, frozen=True):
    """A model by name.

    Attributes:
        path: Folder of its versions, on this machine or in an object store.
        versions: Which are wanted; None = as its own configuration says.
        labels: Its versions' names, the model's own ones beside them.
        default_label: Which of them requests mean that name no version; empty = as its configuration says.
        platform: As the operator calls it.
        logging: Which requests are written down; None = as its own configuration says.
        is_asked: A request named the path, and no operator did.
        is_exact: What lies there is whole, and nothing but the ``specific`` versions is looked at.
    """

    name: str
    path: str
    versions: Versions | None = None
    labels: dict[str, str] = {}
    default_label: str = ""
    platform: str = PLATFORM
    logging: Logging | None = None
    is_asked: bool = False
    is_exact: bool = False

    @property
    def only(self) -> frozenset[str]:
        """The versions that are looked at; none = all."""
        return frozenset(self.versions.specific) if self.is_exact and self.versions else frozenset()


class Customs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for every model that is named, where its own configuration does not say otherwise.

    Attributes:
        batching: How requests share runs; None = as always.
        instances: Runs at the same time, of backends whose instances are cheap; 0 = as always.
        has_own_batching: A version's own ``batching_params.pbtxt`` says how, and one that has none runs
            requests as they come.
        options: For a backend, by its name.
        replays: How often warm-up records of a SavedModel are run; 0 = not.
    """

    batching: Batching | None = None
    instances: int = 0
    has_own_batching: bool = False
    options: dict[str, dict[str, str]] = {}
    replays: int = 1


def places_of(config: Any) -> tuple[Place, ...]:
    """The models of a ModelServerConfig (TF-C1 to TF-C3).

    Raises:
        InvalidInput, Unsupported: it cannot be served; TensorFlow Serving's texts, where it has one.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise Unsupported(_CUSTOM, fix="Say model_config_list.")
    models = config.model_config_list.config
    seen: set[str] = set()
    for model in models:
        if not model.name:
            raise InvalidInput("a model of model_config_list has no name")
        if model.name in seen:
            raise InvalidInput(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
        if "://" not in model.base_path and not PurePosixPath(model.base_path).is_absolute():
            raise InvalidInput(
                f"Expected model {model.name} to have an absolute path or URI; got "
                f"base_path()={model.base_path}"
            )
    return tuple(
        Place(
            model.name,
            model.base_path,
            _versions(model.model_version_policy) if model.HasField("model_version_policy") else None,
            {label: str(version) for label, version in sorted(model.version_labels.items())},
            platform=_platform(model),
            logging=_logging(model.name, model.logging_config) if model.HasField("logging_config") else None,
        )
        for model in models
    )


def without_effect(config: Any) -> tuple[str, ...]:
    """The keys of a ModelServerConfig that are accepted and have no effect here (TF-C4)."""
    found = set()
    for model in config.model_config_list.config:
        said = model.logging_config
        sampling = said.sampling_config
        if sampling.per_task_sampling_configs:
            found.add("sampling_config.per_task_sampling_configs")
        if sampling.attributes:
            found.add("sampling_config.attributes")
        if said.HasField("custom_logging_config"):
            found.add("custom_logging_config")
    return tuple(f"logging_config.{key}" for key in sorted(found))


def check_change(before: Sequence[Place], after: Sequence[Place]) -> None:
    """May this list take the place of that one?

    Raises:
        InvalidInput: a model has another platform, or one that there is not; TensorFlow Serving's texts.
    """
    platforms = {place.name: place.platform for place in before}
    for place in after:
        old = platforms.get(place.name, place.platform)
        if place.platform != old:
            raise InvalidInput(
                f"Illegal to change a model's platform. For model {place.name} platform was {old} and new "
                f"platform requested is {place.platform}"
            )
    for place in after:
        if place.platform != PLATFORM:
            raise InvalidInput(
                f"Model {place.name} requests unsupported platform {place.platform}",
                fix=f'Say model_platform: "{PLATFORM}"; any format that Salver knows may lie there.',
            )


def check_labels(
    places: Iterable[Place],
    meant: Mapping[str, Mapping[str, str]],
    ready: Iterable[ModelId],
    *,
    allows_unready: bool,
) -> None:
    """May labels mean these versions (TF-L7)?

    Args:
        meant: The version that each label means now, by model.
        ready: What can answer.
        allows_unready: A label that is new may mean a version that cannot answer yet.

    Raises:
        FailedPrecondition: one may not; TensorFlow Serving's text.
    """
    there = {(id.name, int(id.version)) for id in ready if id.version.isdecimal()}
    for place in places:
        for label, version in place.labels.items():
            old = meant.get(place.name, {}).get(label, version)
            is_new = not old.isdecimal() or int(old) == int(version)
            if not (allows_unready and is_new) and (place.name, int(version)) not in there:
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {place.name}, which is not "
                    "currently available for inference",
                    fix="Let the version load first; --allow_version_labels_for_unavailable_models=true "
                    "allows it for labels that are new.",
                )


def overlaid(manifests: Iterable[Manifest], place: Place, customs: Customs) -> Iterator[Manifest]:
    """The versions of a model as its operator wants them.

    Numbers are compared as numbers: version 7 may lie in a folder ``00000007``.
    """
    mine = list(manifests)
    spelled = {int(m.id.version): m.id.version for m in mine if m.id.version.isdecimal()}

    def spell(version: str) -> str:
        return spelled.get(int(version), version)

    labels = {label: spell(version) for label, version in place.labels.items()}
    for manifest in mine:
        config = manifest.config
        versions = place.versions if place.versions is not None else config.versions
        if versions.specific:
            specific = tuple(spell(v) if v.isdecimal() else v for v in versions.specific)
            versions = msgspec.structs.replace(versions, specific=specific)
        config = msgspec.structs.replace(
            config,
            versions=versions,
            labels={**config.labels, **labels},
            default_label=place.default_label or config.default_label,
        )
        fingerprint = manifest.fingerprint
        if place.logging is not None:
            config = msgspec.structs.replace(config, logging=place.logging)
            fingerprint = f"{fingerprint} {place.logging}"  # counts at once, in place (TF-L6)
        yield msgspec.structs.replace(
            manifest, config=_with_customs(config, manifest.backend, customs), fingerprint=fingerprint
        )


def _with_customs(config: ModelConfig, backend: str, customs: Customs) -> ModelConfig:
    batching, options = config.batching, {**customs.options.get(backend, {}), **config.options}
    instances = config.instances
    if batching == _DEFAULT and customs.batching is not None:
        batching = NO_BATCHING if customs.has_own_batching else customs.batching
    warmup = config.warmup
    if customs.replays != 1 and warmup.replays == 1:
        warmup = msgspec.structs.replace(warmup, replays=customs.replays)
    if not instances.count and backend not in _WITH_OWN_THREADS:
        instances = msgspec.structs.replace(instances, count=customs.instances)
    return msgspec.structs.replace(
        config, batching=batching, instances=instances, options=options, warmup=warmup
    )


def _versions(policy: Any) -> Versions:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return Versions(all=True)
        case "specific":
            numbers = tuple(str(version) for version in policy.specific.versions)
            return Versions(specific=numbers) if numbers else Versions(latest=0)
        case _:
            return Versions(latest=max(policy.latest.num_versions, 1))


def _logging(name: str, said: Any) -> Logging:
    """TF-C4. Of the file's place only its name counts: the folder is the server's own to say."""
    rate = said.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise InvalidInput(f"sampling_rate of model {name} must be from 0 to 1, not {rate:g}")
    prefix = PurePosixPath(said.log_collector_config.filename_prefix).name
    return Logging(rate=rate, prefix=_UNFIT.sub("_", prefix).lstrip("._-"))


def _platform(model: Any) -> str:
    if model.model_type and model.model_platform:
        raise InvalidInput(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform."
        )
    if model.model_type > 1:
        raise InvalidInput(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    platform = PLATFORM if model.model_type else str(model.model_platform)
    if not platform:
        raise InvalidInput(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    return platform
