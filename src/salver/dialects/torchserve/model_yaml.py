"""Settings in an archive's ``model-config.yaml`` (TS-Y1 to TS-Y4).

The server's keys are checked; all others belong to the handler, which reads them itself. The file is
untrusted: its size is limited, and it can hold plain values only. Pure.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from salver.encoding.plain_yaml import read_yaml
from salver.words.errors import BadArchive, InvalidInput
from salver.words.handlers import MOST_WORKERS, Workers

MOST_BYTES: Final = 256 << 10
_MOST_NUMBER: Final = 2**31 - 1
_ALIKE: Final = 0.85
_USUAL: Final = Workers()


class _Key(msgspec.Struct, frozen=True):
    """A key of the server's: the field of :class:`Workers` that it sets, with type and range."""

    field: str
    kind: type = int
    least: int = 0
    most: int = _MOST_NUMBER


_KEYS: Final[Mapping[str, _Key]] = {
    "minWorkers": _Key("least", most=MOST_WORKERS),
    "maxWorkers": _Key("most"),
    "batchSize": _Key("batch_size"),
    "maxBatchDelay": _Key("max_batch_delay_ms"),
    "responseTimeout": _Key("response_timeout_s", least=1),
    "startupTimeout": _Key("startup_timeout_s", least=1),
    "maxRetryTimeoutInSec": _Key("max_retry_s"),
    "clientTimeoutInMills": _Key("client_timeout_ms"),
    "jobQueueSize": _Key("queue"),
    "useJobTicket": _Key("needs_ticket", bool),
    "useVenv": _Key("has_own_environment", bool),
    "asyncCommunication": _Key("is_async", bool),
    "sequenceBatching": _Key("is_stateful", bool),
    "continuousBatching": _Key("is_continuous", bool),
    "sequenceMaxIdleMSec": _Key("sequence_idle_ms"),
    "sequenceTimeoutMSec": _Key("sequence_timeout_ms"),
    "maxNumSequence": _Key("max_sequences"),
    "maxSequenceJobQueueSize": _Key("sequence_queue"),
    "deviceType": _Key("device", str),
    "deviceIds": _Key("device_ids", tuple),
    "parallelType": _Key("parallel_type", str),
    "parallelLevel": _Key("parallel_level"),
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"parallelType": ("", "pp", "tp", "pptp", "custom")}
#: Known devices; any other means the first, as in TorchServe.
_DEVICES: Final = ("cpu", "gpu")
#: Fields whose values count as 1 or more once set, as in TorchServe.
_AT_LEAST_ONE: Final = frozenset({"max_sequences", "sequence_queue"})
#: Fields in which a request overrides the archive.
_REQUEST_FIRST: Final = frozenset({"batch_size", "max_batch_delay_ms"})
_TORCHRUN: Final = "torchrun"
#: Keys without an effect, for want of hardware or libraries.
_WITHOUT_EFFECT: Final = (
    _TORCHRUN, "parallelType", "parallelLevel", "pippy", "deepspeed", "trt_llm_engine_config",
)  # fmt: skip
#: Known keys of handlers.
_FREE: Final = frozenset(
    ("handler", "pt2", "micro_batching", "vllm_engine_config", "model", *_WITHOUT_EFFECT)
)


class ModelYaml(msgspec.Struct, frozen=True):
    """The server's part of the file.

    Attributes:
        fields: Values by field of :class:`Workers`.
        notices: A line for each key without an effect here, or with a name close to one of the server's.
    """

    fields: Mapping[str, Any]
    notices: tuple[str, ...] = ()

    @property
    def tells_workers(self) -> bool:
        """Return whether the file sets the number of workers, which takes at least one (TS-C12)."""
        least = self.fields.get("least", 0)
        return bool(0 < least <= self.fields.get("most", 0))


class WorkerSettings(msgspec.Struct, frozen=True):
    """Settings of a model from elsewhere than its archive; None = not set.

    Attributes:
        least, most: Number of workers, at the start or in a snapshot.
        is_final: Whether they override the archive's numbers.
    """

    least: int | None = None
    most: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    is_final: bool = False


def parse(content: bytes, where: str) -> ModelYaml:
    """Parse a file.

    Args:
        where: Name of archive and file, for messages.

    Raises:
        BadArchive: the file is malformed, or a value is wrong; the message names the key.
        MissingExtra: PyYAML is not installed.
    """
    values = read_keys(content, where)
    fields: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if values.get(name) is not None:
            fields[key.field] = _checked(name, key, values[name], where)
    if fields.get("least", 0) > fields.get("most", fields.get("least", 0)):
        raise BadArchive(
            f"{where}: minWorkers is {fields['least']}, more than maxWorkers, {fields['most']}",
            field="maxWorkers",
        )
    if fields.get("device", _DEVICES[0]) not in _DEVICES:
        fields["device"] = _DEVICES[0]
    if torchrun := values.get(_TORCHRUN):
        level = _processes(torchrun, where)
        fields.setdefault("parallel_level", level)
    for field in _AT_LEAST_ONE & fields.keys():
        fields[field] = max(1, fields[field])
    if fields.get("queue") == 0:
        del fields["queue"]
    return ModelYaml(fields, tuple(_notices(values)))


def allowed_range(least: int, most: int) -> str:
    """Return the range of a number, for messages."""
    if most == _MOST_NUMBER:
        return f"at least {least}"
    return f"from {least} to {most}"


def workers_of(
    defaults: Workers, setting: WorkerSettings, yaml: ModelYaml | None, requested: WorkerSettings
) -> Workers:
    """Return the worker settings of a model from all sources (TS-C12).

    The archive overrides a request except for size and delay of batches, and has 120 s for timeouts that it
    does not set.

    Args:
        defaults: Defaults of the server.
        setting: From the ``models`` setting.
        requested: From the request.
    """
    request = _fields(requested)
    fields = {**_fields(setting), **request}
    if yaml is not None:
        archive = {
            "response_timeout_s": _USUAL.response_timeout_s,
            "startup_timeout_s": _USUAL.startup_timeout_s,
            **yaml.fields,
        }
        if not yaml.tells_workers or requested.is_final:
            archive.pop("least", None)
            archive.pop("most", None)
        fields |= archive
        fields |= {name: request[name] for name in _REQUEST_FIRST & request.keys()}
    workers = msgspec.structs.replace(defaults, **fields)
    return msgspec.structs.replace(workers, most=max(workers.least, workers.most))


def _fields(settings: WorkerSettings) -> dict[str, Any]:
    values = msgspec.structs.asdict(settings)
    return {name: value for name, value in values.items() if name != "is_final" and value is not None}


def read_keys(content: bytes, where: str) -> dict[str, Any]:
    """Return the keys of a YAML file.

    Raises:
        BadArchive: it cannot be read.
        MissingExtra: PyYAML is not installed.
    """
    try:
        values = read_yaml(content, where, "torchserve", MOST_BYTES)
    except InvalidInput as error:
        raise BadArchive(error.message) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise BadArchive(f"{where} is no mapping", fix="Write lines such as `batchSize: 4`.")
    return values


def _checked(name: str, key: _Key, value: Any, where: str) -> Any:
    wanted = ""
    if key.kind is int:
        if type(value) is not int or not key.least <= value <= key.most:
            wanted = f"a whole number, {allowed_range(key.least, key.most)}"
    elif key.kind is tuple:
        if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
            wanted = "a list of whole numbers"
        else:
            value = tuple(value)
    elif type(value) is not key.kind:
        wanted = {bool: "true or false", str: "a string"}[key.kind]
    if not wanted and name in _CHOICES and value.lower() not in _CHOICES[name]:
        wanted = " or ".join(filter(None, _CHOICES[name]))
    if wanted:
        raise BadArchive(f"{where}: {name} is {_short(value)}, and must be {wanted}", field=name)
    if isinstance(value, str):
        return value.lower()
    return value


def _processes(torchrun: Any, where: str) -> int:
    """Return the number of processes that a worker would be; 0 = one."""
    if not isinstance(torchrun, dict):
        raise BadArchive(
            f"{where}: {_TORCHRUN} is {_short(torchrun)}, and must be a mapping", field=_TORCHRUN
        )
    count = torchrun.get("nproc-per-node", 1)
    if type(count) is not int or not 1 <= count <= _MOST_NUMBER:
        field = f"{_TORCHRUN}.nproc-per-node"
        raise BadArchive(f"{where}: {field} is {_short(count)}, and must be a whole number", field=field)
    return count if count > 1 else 0


def _notices(values: Mapping[str, Any]) -> list[str]:
    notices = [f"{key}: accepted, no effect here" for key in _WITHOUT_EFFECT if values.get(key)]
    device = values.get("deviceType") or _DEVICES[0]
    if str(device).lower() not in _DEVICES:
        notices.append(f"deviceType {_short(device)}: accepted, no effect here")
    plain = {_plain(key): key for key in _KEYS}
    for key in values.keys() - _KEYS.keys() - _FREE:
        near = difflib.get_close_matches(_plain(key), plain, 1, _ALIKE)
        if near:
            notices.append(f"{key}: left to the handler; the server's key is {plain[near[0]]}")
    return sorted(notices)


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
