"""What does an archive's ``model-config.yaml`` want of the server (TS-Y1 to TS-Y4)?

Pure. Keys that are the server's are checked; all others are the handler's own, and it reads them itself. The
file comes from outside: it is bounded, and makes nothing but plain values.
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
    """A key of the server's: the field of :class:`Workers` that it sets, and what it may be."""

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
#: Others are taken for the first, as TorchServe does.
_DEVICES: Final = ("cpu", "gpu")
#: Which count as 1 once they are written, as TorchServe has it.
_AT_LEAST_ONE: Final = frozenset({"max_sequences", "sequence_queue"})
#: In which a request goes before the archive.
_ASKED_FIRST: Final = frozenset({"batch_size", "max_batch_delay_ms"})
_TORCHRUN: Final = "torchrun"
#: Of the handler, and known to be so.
_FREE: Final = frozenset(
    {
        "handler",
        "pt2",
        "micro_batching",
        "vllm_engine_config",
        "pippy",
        "deepspeed",
        "trt_llm_engine_config",
        "model",
    }
)
#: Without the hardware or library behind them.
_WITHOUT_EFFECT: Final = (
    _TORCHRUN,
    "parallelType",
    "parallelLevel",
    "pippy",
    "deepspeed",
    "trt_llm_engine_config",
)


class ModelYaml(msgspec.Struct, frozen=True):
    """What the file says to the server.

    Attributes:
        fields: Of :class:`Workers`.
        notices: One for each key that has no effect here, or that is close to one of the server's.
    """

    fields: Mapping[str, Any]
    notices: tuple[str, ...] = ()

    @property
    def tells_workers(self) -> bool:
        """Only a file that wants some says how many (TS-C12)."""
        least = self.fields.get("least", 0)
        return bool(0 < least <= self.fields.get("most", 0))


class Wishes(msgspec.Struct, frozen=True):
    """What others than the archive say of a model; None = nothing.

    Attributes:
        least, most: At the start, or from a snapshot.
        is_final: They go before what the archive says of them.
    """

    least: int | None = None
    most: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    is_final: bool = False


def parse(content: bytes, where: str) -> ModelYaml:
    """Read a file.

    Args:
        where: The archive and the file, for messages.

    Raises:
        BadArchive: it cannot be read, or a value cannot be; the message names the key.
        MissingExtra: nothing here reads YAML.
    """
    values = read_keys(content, where)
    fields: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if values.get(name) is not None:
            fields[key.field] = _checked(name, key, values[name], where)
    if fields.get("least", 0) > fields.get("most", fields.get("least", 0)):
        raise BadArchive(
            f"{where}: minWorkers is {fields['least']} and maxWorkers {fields['most']}, which is less",
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
        del fields["queue"]  # as if it were not there
    return ModelYaml(fields, tuple(_notices(values)))


def workers_of(defaults: Workers, told: Wishes, yaml: ModelYaml | None, asked: Wishes) -> Workers:
    """How a model is run, of what all say (TS-C12).

    A request goes before the archive in the size and delay of batches only; the archive goes before in all
    else, and says 120 s for times that it does not name.

    Args:
        defaults: The server's.
        told: By the ``models`` setting.
        asked: By the request.
    """
    said = {**_fields(told), **_fields(asked)}
    if yaml is not None:
        mine = dict(yaml.fields)
        mine.setdefault("response_timeout_s", _USUAL.response_timeout_s)
        mine.setdefault("startup_timeout_s", _USUAL.startup_timeout_s)
        if not yaml.tells_workers or asked.is_final:
            mine.pop("least", None)
            mine.pop("most", None)
        before = _fields(asked)
        said |= mine
        said |= {name: before[name] for name in _ASKED_FIRST & before.keys()}
    workers = msgspec.structs.replace(defaults, **said)
    return workers if workers.most >= workers.least else msgspec.structs.replace(workers, most=workers.least)


def _fields(wishes: Wishes) -> dict[str, Any]:
    said = msgspec.structs.asdict(wishes)
    return {name: value for name, value in said.items() if name != "is_final" and value is not None}


def read_keys(content: bytes, where: str) -> dict[str, Any]:
    """The keys of a file in YAML, which makes nothing but plain values, and not too many.

    Raises:
        BadArchive: it cannot be read.
        MissingExtra: nothing here reads YAML.
    """
    try:
        values = read_yaml(content, where, "torchserve", MOST_BYTES)
    except InvalidInput as error:
        raise BadArchive(error.message) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise BadArchive(f"{where} holds no keys with values", fix="Write lines such as `batchSize: 4`.")
    return values


def _checked(name: str, key: _Key, value: Any, where: str) -> Any:
    wanted = ""
    if key.kind is int:
        if type(value) is not int or not key.least <= value <= key.most:
            to = "on" if key.most == _MOST_NUMBER else f"to {key.most}"
            wanted = f"a whole number from {key.least} {to}"
    elif key.kind is tuple:
        if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
            wanted = "a list of whole numbers"
        else:
            value = tuple(value)
    elif type(value) is not key.kind:
        wanted = "true or false" if key.kind is bool else "a text"
    if not wanted and name in _CHOICES and value.lower() not in _CHOICES[name]:
        wanted = " or ".join(filter(None, _CHOICES[name]))
    if wanted:
        raise BadArchive(f"{where}: {name} is {_short(value)}, and must be {wanted}", field=name)
    return value.lower() if key.kind is str else value


def _processes(torchrun: Any, where: str) -> int:
    """How many processes a worker would be."""
    if not isinstance(torchrun, dict):
        raise BadArchive(f"{where}: {_TORCHRUN} is {_short(torchrun)}, and must hold keys", field=_TORCHRUN)
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
    for key in values.keys() - _KEYS.keys() - _FREE - {_TORCHRUN}:
        near = difflib.get_close_matches(_plain(key), plain, 1, _ALIKE)
        if near:
            notices.append(f"{key}: left to the handler; the server's key is {plain[near[0]]}")
    return sorted(notices)


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
