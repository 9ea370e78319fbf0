"""Settings of models in TorchServe's JSON (TS-B10, and the ``models`` setting of TS-C2).

``{"name": {"1.0": {"defaultVersion": true, "marName": "…", …}}}``. Pure; where it is kept is not known here.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from salver.dialects.torchserve.model_yaml import WorkerSettings
from salver.words.errors import InvalidInput
from salver.words.handlers import HandlerStatus

_MOST_NUMBER: Final = 2**31 - 1
#: Keys in JSON -> fields of :class:`WorkerSettings`.
_NUMBERS: Final[Mapping[str, str]] = {
    "minWorkers": "least",
    "maxWorkers": "most",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_s",
    "startupTimeout": "startup_timeout_s",
}
#: Keys in JSON -> fields of :class:`ModelSetting`.
_TEXTS: Final = {"marName": "file", "url": "url", "runtimeType": "runtime", "handler": "handler"}
_NOTHING: Final = WorkerSettings()
msgspec.json.Decoder(WorkerSettings)  # prepared here, since the first use may be on any thread


class ModelSetting(msgspec.Struct, frozen=True):
    """Setting of one version.

    Attributes:
        file: Archive in the model store; empty = not set.
        url: Origin of the archive, if it is not the store.
        runtime: Empty = as in the archive.
    """

    is_default: bool = False
    file: str = ""
    url: str = ""
    runtime: str = ""
    handler: str = ""
    workers: WorkerSettings = _NOTHING


#: By name, then by version.
Settings = Mapping[str, Mapping[str, ModelSetting]]


def parse(text: str, field: str = "models") -> Settings:
    """Parse the value of the setting, or the ``models`` of a snapshot.

    Raises:
        InvalidInput: it is malformed; the message names the key.
    """
    try:
        whole = json.loads(text.strip() or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{field} is no JSON: {error}", field=field) from error
    return {name: _versions(versions, f"{field}.{name}") for name, versions in _table(whole, field).items()}


def snapshot(statuses: Iterable[HandlerStatus], handlers: Mapping[str, str]) -> dict[str, Any]:
    """Return the ``models`` of a snapshot.

    Args:
        handlers: Handlers that registrations set in place of the archive's, by ``name:version``.
    """
    models: dict[str, dict[str, Any]] = {}
    for status in statuses:
        workers = status.workers
        setting: dict[str, Any] = {
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
            setting["parallelLevel"] = workers.parallel_level
        if status.url != setting["marName"]:
            setting["url"] = status.url
        if handler := handlers.get(f"{status.name}:{status.version}"):
            setting["handler"] = handler
        models.setdefault(status.name, {})[status.version] = setting
    return models


def _versions(versions: Any, field: str) -> dict[str, ModelSetting]:
    return {
        version: _setting(value, f"{field}.{version}") for version, value in _table(versions, field).items()
    }


def _setting(setting: Any, field: str) -> ModelSetting:
    values = _table(setting, field)
    numbers = {}
    for key, name in _NUMBERS.items():
        value = values.get(key)
        if value is None:
            continue
        if type(value) is not int or not -_MOST_NUMBER <= value <= _MOST_NUMBER:
            raise InvalidInput(
                f"{field}.{key} is {value!r}, and must be a whole number", field=f"{field}.{key}"
            )
        numbers[name] = max(0, value)
    texts = {}
    for key, name in _TEXTS.items():
        value = values.get(key, "")
        if not isinstance(value, str):
            raise InvalidInput(f"{field}.{key} is {value!r}, and must be a string", field=f"{field}.{key}")
        texts[name] = value
    is_default = values.get("defaultVersion", False)
    if not isinstance(is_default, bool):
        key = f"{field}.defaultVersion"
        raise InvalidInput(f"{key} is {is_default!r}, and must be true or false", field=key)
    return ModelSetting(is_default, **texts, workers=msgspec.convert(numbers, WorkerSettings))


def _table(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} must be a JSON object, not {str(value)[:60]!r}", field=field)
    return value
