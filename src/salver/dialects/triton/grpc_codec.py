"""Codec of the gRPC messages of Triton's extensions to the Open Inference Protocol.

Each function reads or returns the bytes of one message. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from salver.dialects.oip.regions import Region
from salver.dialects.triton import repository_calls, settings
from salver.dialects.triton.grpc_schema import build
from salver.dialects.triton.repository_calls import index, refuse_repository
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput
from salver.words.messages import VersionStatus

_CLASSES = build()
_RegionStatus = _CLASSES["SystemSharedMemoryStatusResponse.RegionStatus"]


def _parse(name: str, message: bytes) -> Any:
    try:
        return _CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {name}: {error}") from None


def _serialize(name: str, /, **fields: Any) -> bytes:
    return _CLASSES[name](**fields).SerializeToString()  # type: ignore[no-any-return]


def encode_model_config(config: bytes) -> bytes:
    """Return a ModelConfigResponse around a serialised ModelConfig."""
    return _serialize("ModelConfigResponse", config=_CLASSES["ModelConfig"].FromString(config))


def encode_statistics(statistics: Mapping[str, Any]) -> bytes:
    """Return a ModelStatisticsResponse from the JSON form (TR-R8)."""
    return _serialize("ModelStatisticsResponse", **statistics)


def decode_index_request(message: bytes) -> bool:
    """Return whether a RepositoryIndexRequest asks for ready versions only."""
    parsed = _parse("RepositoryIndexRequest", message)
    refuse_repository(parsed.repository_name)
    return bool(parsed.ready)


def encode_index(statuses: Iterable[VersionStatus], only_ready: bool) -> bytes:
    """Return a RepositoryIndexResponse."""
    return _serialize("RepositoryIndexResponse", models=index(statuses, only_ready))


def decode_load_request(message: bytes) -> tuple[str, LoadOrder]:
    """Return model name and order of a RepositoryModelLoadRequest (TR-R12)."""
    parsed = _parse("RepositoryModelLoadRequest", message)
    refuse_repository(parsed.repository_name)
    config = ""
    files: dict[str, bytes] = {}
    for name, parameter in parsed.parameters.items():
        if name == "config":
            text = _only(name, parameter, "string_param", "load parameter 'config'")
            config = repository_calls.check_config(text)
        elif name.startswith(repository_calls.FILE):
            content = _only(name, parameter, "bytes_param", f"load parameter '{name}'")
            files[name.removeprefix(repository_calls.FILE)] = content
        else:
            raise repository_calls.unknown_parameter(name)
    return parsed.model_name, LoadOrder(config, files)


def decode_unload_request(message: bytes) -> tuple[str, bool]:
    """Return the model of a RepositoryModelUnloadRequest, and whether to unload its dependents (TR-R13)."""
    parsed = _parse("RepositoryModelUnloadRequest", message)
    refuse_repository(parsed.repository_name)
    name = "unload_dependents"
    dependents = False
    if name in parsed.parameters:
        dependents = _only(name, parsed.parameters[name], "bool_param", f"'{name}' parameter")
    return str(parsed.model_name), dependents


def _only(name: str, parameter: Any, choice: str, what: str) -> Any:
    if parameter.WhichOneof("parameter_choice") != choice:
        raise InvalidInput(f"invalid value type for {what}, expected {choice}.", field=f"parameters.{name}")
    return getattr(parameter, choice)


def decode_trace_request(message: bytes) -> tuple[str, settings.TraceChange]:
    """Return model name, empty for all, and change of a TraceSettingRequest."""
    parsed = _parse("TraceSettingRequest", message)
    given = {name: value.value[:] for name, value in parsed.settings.items()}
    return parsed.model_name, settings.trace_change(given)


def encode_trace(setting: settings.TraceSetting) -> bytes:
    """Return a TraceSettingResponse."""
    values = {name: {"value": texts} for name, texts in settings.trace_values(setting).items()}
    return _serialize("TraceSettingResponse", settings=values)


def decode_log_request(message: bytes) -> settings.LogChange:
    """Return the change in a LogSettingsRequest."""
    given = {}
    for name, value in _parse("LogSettingsRequest", message).settings.items():
        choice = value.WhichOneof("parameter_choice")
        given[name] = getattr(value, choice) if choice else None
    return settings.log_change(given)


def encode_log(shown: settings.LogSettings) -> bytes:
    """Return a LogSettingsResponse."""
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    values = {name: {kinds[type(v)]: v} for name, v in msgspec.structs.asdict(shown).items()}
    return _serialize("LogSettingsResponse", settings=values)


def decode_region_name(message: bytes) -> str:
    """Return the region's name in a request; it is the first field of all of them, CUDA's included."""
    name: str = _parse("SystemSharedMemoryStatusRequest", message).name
    return name


def decode_region(message: bytes) -> Region:
    """Return the region in a SystemSharedMemoryRegisterRequest."""
    parsed = _parse("SystemSharedMemoryRegisterRequest", message)
    return Region(parsed.name, parsed.key, parsed.offset, parsed.byte_size)


def encode_regions(regions: Iterable[Region]) -> bytes:
    """Return a SystemSharedMemoryStatusResponse."""
    return _serialize(
        "SystemSharedMemoryStatusResponse",
        regions={region.name: _RegionStatus(**msgspec.structs.asdict(region)) for region in regions},
    )
