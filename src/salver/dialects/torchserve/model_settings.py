"""How is written down which handlers are served, and how (TS-B10, and the ``models`` setting of TS-C2)?

Pure: TorchServe's JSON, ``{"name": {"1.0": {"defaultVersion": true, "marName": "…", …}}}``. Where it is kept
is not known here.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from salver.dialects.torchserve.model_yaml import Wishes
from salver.words.errors import InvalidInput
from salver.words.handlers import HandlerStatus

_MOST_NUMBER: Final = 2**31 - 1
#: JSON's keys, and the fields of :class:`Wishes` that they are.
_NUMBERS: Final[Mapping[str, str]] = {
    "minWorkers": "least",
    "maxWorkers": "most",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_s",
    "startupTimeout": "startup_timeout_s",
}
_NOTHING: Final = Wishes()
msgspec.json.Decoder(Wishes)  # or it would be prepared by whoever reads first, on any thread


class ModelSetting(msgspec.Struct, frozen=True):
    """What is written down of one version.

    Attributes:
        file: The archive, in the model store; empty = it is not said.
        url: Where it came from, if from elsewhere.
        runtime: Empty = as the archive says.
    """

    is_default: bool = False
    file: str = ""
    url: str = ""
    runtime: str = ""
    handler: str = ""
    wishes: Wishes = _NOTHING


#: By name, then by version.
Settings = Mapping[str, Mapping[str, ModelSetting]]


def parse(text: str, field: str = "models") -> Settings:
    """The value of the setting, or the ``models`` of a snapshot.

    Raises:
        InvalidInput: it is no such JSON; the message names the key.
    """
    try:
        whole = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{field} is no JSON: {error}", field=field) from error
    return {name: _versions(versions, f"{field}.{name}") for name, versions in _table(whole, field).items()}


def snapshot(statuses: Iterable[HandlerStatus], handlers: Mapping[str, str]) -> dict[str, Any]:
    """The ``models`` of a snapshot.

    Args:
        handlers: By ``name:version``, where a registration said one in place of the archive's.
    """
    models: dict[str, dict[str, Any]] = {}
    for status in statuses:
        workers = status.workers
        said: dict[str, Any] = {
            "defaultVersion": status.is_default,
            "marName": posixpath.basename(status.url.partition("?")[0]),
            "minWorkers": workers.least,
            "maxWorkers": workers.most,
            "batchSize": workers.batch_size,
            "maxBatchDelay": workers.max_batch_delay_ms,
            "responseTimeout": workers.response_timeout_s,
            "startupTimeout": workers.startup_timeout_s,
            "runtimeType": status.runtime,
        }
        if workers.parallel_level:
            said["parallelLevel"] = workers.parallel_level
        if status.url != said["marName"]:
            said["url"] = status.url
        if handler := handlers.get(f"{status.name}:{status.version}"):
            said["handler"] = handler
        models.setdefault(status.name, {})[status.version] = said
    return models


def _versions(versions: Any, field: str) -> dict[str, ModelSetting]:
    return {
        version: _setting(said, f"{field}.{version}") for version, said in _table(versions, field).items()
    }


def _setting(said: Any, field: str) -> ModelSetting:
    said = _table(said, field)
    numbers = {}
    for key, name in _NUMBERS.items():
        value = said.get(key)
        if value is None:
            continue
        if type(value) is not int or not -_MOST_NUMBER <= value <= _MOST_NUMBER:
            raise InvalidInput(
                f"{field}.{key} is {value!r}, and must be a whole number", field=f"{field}.{key}"
            )
        numbers[name] = max(0, value)
    texts = {}
    for key, name in (
        ("marName", "file"),
        ("url", "url"),
        ("runtimeType", "runtime"),
        ("handler", "handler"),
    ):
        value = said.get(key, "")
        if not isinstance(value, str):
            raise InvalidInput(f"{field}.{key} is {value!r}, and must be a text", field=f"{field}.{key}")
        texts[name] = value
    is_default = said.get("defaultVersion", False)
    if not isinstance(is_default, bool):
        key = f"{field}.defaultVersion"
        raise InvalidInput(f"{key} is {is_default!r}, and must be true or false", field=key)
    return ModelSetting(is_default, **texts, wishes=msgspec.convert(numbers, Wishes))


def _table(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} must be a JSON object, not {str(value)[:60]!r}", field=field)
    return value
