"""Tables of features in ``[server]`` of ``salver.toml``, and their environment variables."""

import contextlib
import pkgutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from salver.cli.server_file import Records, ServerFile
from salver.feature import discover
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput

with lazy_imports():
    from salver.encoding.lenient import mapping


#: Tables of parts that are no features of the contract: where their records are defined.
_RECORDS: Final = {
    "tenants": "salver.features:TenantsConfig",
    "metrics": "salver.dialects.triton.metrics:TritonMetricsConfig",
    "tracing": "salver.features.telemetry.otlp:SpanConfig",
}


def records() -> Records:
    """Return the configuration record of each table."""
    return dict(_records(_RECORDS))


def variable_of(table: str, key: str) -> str:
    """Return the environment variable of a key.

    >>> variable_of("tracing", "delay_s")
    'SALVER_TRACING_DELAY_S'
    """
    return f"SALVER_{table}_{key}".upper()


def read_tables(file: ServerFile | None, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the tables that a file or the environment sets; variables override the file.

    Raises:
        InvalidInput: a variable has a value that it cannot have.
    """
    set_here = {name for name in _RECORDS if any(v.startswith(variable_of(name, "")) for v in environment)}
    set_here |= file.table.keys() if file else set()
    found: dict[str, dict[str, Any]] = {}
    for table, record in _records(set_here):
        names = record.__struct_fields__
        content = file and file.table.get(table)
        values = {k: v for k, v in mapping(content).items() if k in names}
        values |= dict(_from_environment(table, record, environment))
        if values:
            found[table] = values
    return found


def _records(tables: Iterable[str]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Yield the records of these tables, and of all features; others are not imported."""
    for table in tables:
        if table in _RECORDS:
            with contextlib.suppress(ModuleNotFoundError):  # its package has been taken out
                yield table, pkgutil.resolve_name(_RECORDS[table])
    for feature in discover():
        if feature.config is not None and feature.has_table:
            yield feature.name, feature.config


def _from_environment(
    table: str, record: type[msgspec.Struct], environment: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(record):
        variable = variable_of(table, field.name)
        if (text := environment.get(variable)) is not None:
            yield field.name, _value_of(text, field.type, variable)


def _value_of(text: str, kind: Any, variable: str) -> object:
    """Return the value of a variable: plain text, a number, true or false, or as TOML writes it."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        try:
            return msgspec.convert(tomllib.loads(f"value = {text}")["value"], kind)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError):
            message = str(error)
            raise InvalidInput(
                f"{variable} is {text!r}: {message[:1].lower()}{message[1:]}", field=variable
            ) from error
