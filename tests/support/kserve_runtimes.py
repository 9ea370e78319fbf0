"""Choice of a runtime for an InferenceService, as KServe's controller makes it among its own and Salver's.

Formats and protocols are those of ``config/runtimes`` at the commit that ``crds/README.md`` names.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from kserve_render import Json

_FOLDER = Path(__file__).parents[2] / "deploy" / "kserve"
#: The runtimes in ``deploy/kserve``, which services have to name.
SALVER: Json = yaml.safe_load((_FOLDER / "salver.yaml").read_text())
TORCHSERVE: Json = yaml.safe_load((_FOLDER / "salver-torchserve.yaml").read_text())
#: The same after what the file advises: the runtime of those who name none.
AUTOMATIC: Json = yaml.safe_load(yaml.safe_dump(SALVER).replace("autoSelect: false", "autoSelect: true"))
#: KServe's own runtimes: protocols, and the formats for which they are selected automatically, as name,
#: version and priority.
KSERVES: dict[str, tuple[str, list[tuple[str, str, int]]]] = {
    "autogluonserver": ("v1 v2", [("autogluon", "1", 1)]),
    "huggingfaceserver": ("v2 v1", [("huggingface", "1", 1)]),
    "lgbserver": ("v1 v2", [("lightgbm", "4", 1)]),
    "mlserver": (
        "v2",
        [
            *[("sklearn", "0", 2), ("sklearn", "1", 2), ("xgboost", "1", 2), ("xgboost", "2", 2)],
            *[("lightgbm", "3", 2), ("lightgbm", "4", 2), ("mlflow", "1", 1), ("mlflow", "2", 1)],
        ],
    ),
    "openvino": ("v1 v2 grpc-v2", [("openvino", "10", 1), ("onnx", "1", 2), ("tensorflow", "1", 3)]),
    "paddleserver": ("v1 v2", [("paddle", "2", 1)]),
    "pmmlserver": ("v1 v2", [("pmml", "3", 1), ("pmml", "4", 1)]),
    "sklearnserver": ("v1 v2", [("sklearn", "1", 1)]),
    "tensorflow-serving": ("v1 grpc-v1", [("tensorflow", "1", 2), ("tensorflow", "2", 2)]),
    "torchserve": ("v1 v2 grpc-v2", [("pytorch", "1", 2)]),
    "tritonserver": (
        "v2 grpc-v2",
        [
            *[("tensorrt", "8", 1), ("tensorflow", "1", 1), ("tensorflow", "2", 1)],
            *[("onnx", "1", 1), ("triton", "2", 1)],
        ],
    ),
    "xgbserver": ("v1 v2", [("xgboost", "2", 1)]),
}
#: Formats whose services speak v2 unless they say otherwise (inference_service_defaults.go).
_SPEAK_V2 = ("triton", "onnx", "huggingface")


_SERVER_TYPE = "serving.kserve.io/server-type"


class NoRuntime(Exception):
    """The controller's reason to start no pod."""


class Format(NamedTuple):
    """A format of a runtime."""

    name: str
    version: str
    priority: int
    is_automatic: bool


def formats(runtime: Json) -> Iterator[Format]:
    """Return the formats of a runtime."""
    for each in runtime["spec"]["supportedModelFormats"]:
        yield Format(each["name"], each["version"], each["priority"], each["autoSelect"])


def kserves() -> list[Json]:
    """Return KServe's own runtimes, without their containers."""
    return [
        {
            "metadata": {"name": name},
            "spec": {
                "protocolVersions": protocols.split(),
                "supportedModelFormats": [
                    {"name": name, "version": version, "priority": priority, "autoSelect": True}
                    for name, version, priority in known
                ],
            },
        }
        for name, (protocols, known) in KSERVES.items()
    ]


def selected(runtimes: Iterable[Json], service: Json) -> Json:
    """Return the runtime of a service (components/predictor.go:336, predictor_model.go:88).

    Raises:
        NoRuntime: none speaks its protocol and knows its format.
    """
    model = service["spec"]["predictor"]["model"]
    wanted, named = model["modelFormat"], model.get("runtime")
    protocol = model.get("protocolVersion")
    if protocol is None and named is None:
        protocol = "v2" if wanted["name"] in _SPEAK_V2 else "v1"
    found = []
    for runtime in runtimes:
        if named not in (None, runtime["metadata"]["name"]):
            continue
        priorities = [
            known.priority
            for known in formats(runtime)
            if (named or known.is_automatic)
            and known.name == wanted["name"]
            and wanted.get("version") in (None, known.version)
        ]
        if priorities and protocol in (None, *runtime["spec"]["protocolVersions"]):
            found.append((priorities[0], runtime))
    if not found:
        raise NoRuntime(f"no runtime found to support predictor with model type: {wanted}")
    return max(found, key=lambda each: each[0])[1]


def with_defaults(runtime: Json, service: Json) -> Json:
    """Return a service with KServe's defaults for the kind of server (inference_service_defaults.go:455)."""
    if runtime["metadata"].get("annotations", {}).get(_SERVER_TYPE) != "torchserve":
        return service
    protocol = service["spec"]["predictor"]["model"].get("protocolVersion", "v1")
    envelope = {"v1": "kserve", "v2": "kservev2"}[protocol]
    metadata = service["metadata"]
    return {**service, "metadata": {**metadata, "labels": {"serviceEnvelope": envelope}}}
