"""Models in a list of TensorFlow Serving (``ModelServerConfig``).

Each has a name, the folder of its versions, and settings. The versions may have any format, and a
configuration beside them holds for everything that the list leaves open.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from salver.kernel.repository.named_models import NamedModel
from salver.words.artifacts import Logging, Versions
from salver.words.errors import FailedPrecondition, InvalidInput, Unsupported
from salver.words.messages import ModelId

#: The only platform; formats are recognised by content.
PLATFORM: Final = "tensorflow"
_CUSTOM: Final = "Missing custom_model_config_loader in ServerCore Options"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")


def named_models(config: Any) -> tuple[NamedModel, ...]:
    """Return the models of a ModelServerConfig (TF-C1 to TF-C3).

    Raises:
        InvalidInput, Unsupported: It cannot be served; the text is TensorFlow Serving's if it has one.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise Unsupported(_CUSTOM, fix="Use model_config_list.")
    found: dict[str, NamedModel] = {}
    for model in config.model_config_list.config:
        if not model.name:
            raise InvalidInput("a model of model_config_list has no name")
        if model.name in found:
            raise InvalidInput(f"Illegal to list model {model.name} multiple times in config list")
        if "://" not in model.base_path and not PurePosixPath(model.base_path).is_absolute():
            raise InvalidInput(
                f"Expected model {model.name} to have an absolute path or URI; got "
                f"base_path()={model.base_path}"
            )
        found[model.name] = NamedModel(
            model.name,
            model.base_path,
            _versions(model),
            {label: str(version) for label, version in sorted(model.version_labels.items())},
            platform=_platform(model),
            logging=_logging(model),
        )
    return tuple(found.values())


def without_effect(config: Any) -> tuple[str, ...]:
    """Return the keys of a ModelServerConfig that are accepted and have no effect here (TF-C4)."""
    found = set()
    for model in config.model_config_list.config:
        logging = model.logging_config
        if logging.sampling_config.per_task_sampling_configs:
            found.add("sampling_config.per_task_sampling_configs")
        if logging.sampling_config.attributes:
            found.add("sampling_config.attributes")
        if logging.HasField("custom_logging_config"):
            found.add("custom_logging_config")
    return tuple(f"logging_config.{key}" for key in sorted(found))


def check_change(before: Sequence[NamedModel], after: Sequence[NamedModel]) -> None:
    """Check whether one list may replace another.

    Raises:
        InvalidInput: A model has a new or unknown platform; the texts are TensorFlow Serving's.
    """
    platforms = {place.name: place.platform or PLATFORM for place in before}
    wanted = {place.name: place.platform or PLATFORM for place in after}
    for name, platform in wanted.items():
        old = platforms.get(name, platform)
        if platform != old:
            raise InvalidInput(
                f"Illegal to change a model's platform. For model {name} platform was {old} and new "
                f"platform requested is {platform}"
            )
    for name, platform in wanted.items():
        if platform != PLATFORM:
            raise InvalidInput(
                f"Model {name} requests unsupported platform {platform}",
                fix=f'Use model_platform: "{PLATFORM}" for all formats that Salver knows.',
            )


def check_labels(
    places: Iterable[NamedModel],
    meant: Mapping[str, Mapping[str, str]],
    ready: Iterable[ModelId],
    *,
    allows_unready: bool,
) -> None:
    """Check whether labels may name these versions (TF-L7).

    Args:
        meant: The version of each label now, by model.
        ready: Versions that can answer.
        allows_unready: Whether a new label may name a version that cannot answer yet.

    Raises:
        FailedPrecondition: One may not; the text is TensorFlow Serving's.
    """
    available = {(id.name, int(id.version)) for id in ready if id.version.isdecimal()}
    for place in places:
        for label, version in place.labels.items():
            old = meant.get(place.name, {}).get(label, version)
            is_new = not old.isdecimal() or int(old) == int(version)
            if not (allows_unready and is_new) and (place.name, int(version)) not in available:
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {place.name}, which is not "
                    "currently available for inference",
                    fix="Let the version load first; --allow_version_labels_for_unavailable_models=true "
                    "allows it for new labels.",
                )


def _versions(model: Any) -> Versions | None:
    if not model.HasField("model_version_policy"):
        return None
    policy = model.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return Versions(all=True)
        case "specific":
            numbers = tuple(str(version) for version in policy.specific.versions)
            if numbers:
                return Versions(specific=numbers)
            return Versions(latest=0)
        case _:
            return Versions(latest=max(policy.latest.num_versions, 1))


def _logging(model: Any) -> Logging | None:
    """Return the logging of a model (TF-C4); of the file's path only the name counts."""
    if not model.HasField("logging_config"):
        return None
    config = model.logging_config
    rate = config.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise InvalidInput(f"sampling_rate of model {model.name} must be from 0 to 1, not {rate:g}")
    prefix = PurePosixPath(config.log_collector_config.filename_prefix).name
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
