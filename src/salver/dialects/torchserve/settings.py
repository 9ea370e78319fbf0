"""TorchServe's settings, from config.properties, the command line and the environment.

:class:`Settings` holds a checked value for each key. The environment overrides the command line, which
overrides the file (TS-C12). Only variables that the file allows are read.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from salver.dialects.torchserve import java_properties
from salver.dialects.torchserve.property_keys import IGNORED, KEYS, OF_SNAPSHOTS, Key
from salver.words.errors import InvalidInput

_FILE: Final = "config.properties"
_PLACEHOLDER: Final = re.compile(r"\$\$([^$]+[^$])\$\$")
_ADDRESS: Final = re.compile(r"(https?)://([^:^/]+)(?::([0-9]+))?|unix:(/.*)", re.IGNORECASE)
#: Default ports of addresses, encrypted and not.
_PORTS: Final = {
    "inference_address": (443, 80),
    "management_address": (8444, 8081),
    "metrics_address": (8445, 8082),
}
#: Patterns of kinds of values, and what is wrong with a value that does not match.
_PATTERNS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "flag": (re.compile("(true|false)?", re.IGNORECASE), "is neither true nor false"),
    "number": (re.compile("-?[0-9]{1,19}", re.ASCII), "is not a whole number"),
    "float": (re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII), "is not a number"),
    "address": (_ADDRESS, "is not an address: http://HOST:PORT, https://HOST:PORT or unix:/PATH"),
    "mode": (re.compile("log|prometheus|legacy", re.IGNORECASE), "is none of log, prometheus, legacy"),
    "envelope": (re.compile("(body|json|kserve|kservev2)?"), "is none of body, json, kserve, kservev2"),
}
#: Variables under the names in TorchServe's documentation.
_OLDER: Final = {"TS_TOKEN_EXPIRATION_TIME_MIN": "TS_TOKEN_EXPIRATION_MIN"}


class Address(NamedTuple):
    """An address to listen on; ``path`` = a UNIX socket."""

    host: str
    port: int
    is_encrypted: bool = False
    path: str = ""


class Source(NamedTuple):
    """Properties, and where they come from.

    Attributes:
        name: The file, for messages; empty = there is none.
        is_snapshot: The file is a snapshot that a server has written.
    """

    values: Mapping[str, str]
    name: str = ""
    is_snapshot: bool = False


class Settings:
    """A checked value for each key.

    Args:
        source: The properties of a file.
        flags: Keys set by the command line; they override the file.
        environment: Overrides both, if the file says ``enable_envvars_config=true``.

    Attributes:
        notices: A line for the log about each key without an effect.

    Raises:
        InvalidInput: a key is unknown, or a value is wrong.
    """

    def __init__(
        self,
        source: Source,
        flags: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        environment = environment or {}
        self.notices: list[str] = []
        self._origin: dict[str, str] = {}
        self._values: dict[str, str] = {}
        for name, value in source.values.items():
            if name not in KEYS:
                raise _unknown(name, source.name)
            if name in IGNORED and not (source.is_snapshot and name in OF_SNAPSHOTS):
                self.notices.append(f"{source.name}: {_no_effect(name)}")
            self._take(name, _resolved(value, environment, f"{source.name}: {name}"), source.name)
        for name, value in (flags or {}).items():
            self._take(name, value, "the command line")
        # After file and flags, since the environment overrides both (TS-C12).
        if self.is_on("enable_envvars_config"):
            for name, variable in _variables(self.is_on("use_env_allowed_urls")):
                if variable in environment:
                    self._take(name, environment[variable], f"the environment ({variable})")
                    if name in IGNORED:
                        self.notices.append(f"{variable}: {_no_effect(name)}")
        if protocol := environment.get("TS_OPEN_INFERENCE_PROTOCOL"):  # whatever the file says
            is_on = protocol.lower() in ("oip", "true")
            self._take("ts_open_inference_protocol", str(is_on).lower(), "the environment")

    def __contains__(self, name: str) -> bool:
        """Return True if the key is set."""
        return name in self._values

    def text(self, name: str) -> str:
        """Return the value as it was written, or the default."""
        return self._values.get(name, KEYS[name].default)

    def is_on(self, name: str) -> bool:
        """Return the value of a key that is true or false."""
        return self.text(name).lower() == "true"

    def number(self, name: str) -> int:
        """Return a whole number."""
        return int(self.text(name))

    def float(self, name: str) -> float:
        """Return a number with a fraction."""
        return float(self.text(name))

    def address(self, name: str) -> Address:
        """Return an address."""
        return _address(name, self.text(name))

    def object(self, name: str) -> dict[str, Any]:
        """Return a JSON object; empty if the key is not set."""
        found: dict[str, Any] = json.loads(self.text(name) or "{}")
        return found

    def as_set(self) -> dict[str, str]:
        """Return the keys that are set, with their values."""
        return dict(self._values)

    def origin(self, name: str) -> str:
        """Return where a key is set, for messages."""
        return self._origin.get(name, "")

    def _take(self, name: str, value: str, origin: str) -> None:
        value = value.strip()
        if why := _wrong(name, KEYS[name], value):
            raise InvalidInput(f"{origin}: {name}={value!r} {why}")
        self._values[name] = value
        self._origin[name] = origin


def read(path: str) -> Source:
    """Return the properties of a file.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return Source(java_properties.parse(Path(path).read_bytes(), path), path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def find(given: str, environment: Mapping[str, str], last: Path | None, folder: Path) -> Source:
    """Return the properties to start from: a named file, the last snapshot, config.properties, or none.

    Args:
        given: The file of ``--ts-config``; ``TS_CONFIG_FILE`` overrides it.
        last: The last snapshot, if it is to be used.

    Raises:
        InvalidInput: the named file is missing, or a file cannot be read.
    """
    if named := environment.get("TS_CONFIG_FILE", given):
        if not Path(named).is_file():
            raise InvalidInput(f"--ts-config file not found: {named}")
        return read(named)
    if last is not None:
        return read(str(last))._replace(is_snapshot=True)
    if (folder / _FILE).is_file():
        return read(str(folder / _FILE))
    return Source({})


def _variables(has_urls: bool) -> Iterator[tuple[str, str]]:
    """Yield keys and their variables; of two for one key, the later one overrides."""
    for name, key in KEYS.items():
        if key.variable and (name != "allowed_urls" or has_urls) and name != "ts_open_inference_protocol":
            if key.variable in _OLDER:
                yield name, _OLDER[key.variable]
            yield name, key.variable


def _resolved(value: str, environment: Mapping[str, str], where: str) -> str:
    """Return the value with ``$$NAME$$`` replaced by the variable of that name."""

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise InvalidInput(f"{where}: Invalid Environment Variable {match[1]}", fix=f"Set {match[1]}.")
        return environment[match[1]]

    return _PLACEHOLDER.sub(variable, value)


def _wrong(name: str, key: Key, value: str) -> str:
    """Return what is wrong with a value; empty = nothing."""
    if key.kind in _PATTERNS:
        pattern, problem = _PATTERNS[key.kind]
        if not pattern.fullmatch(value):
            return problem
    if key.kind == "number" and not key.least <= int(value) <= key.most:
        return f"is not between {key.least} and {key.most}"
    if key.kind == "address" and (address := _address(name, value)).host and not 0 < address.port < 65536:
        return "has a port that is not from 1 to 65535"
    if key.kind == "json":
        return _wrong_object(value)
    if key.kind == "pattern":
        return _wrong_patterns(value.split(",") if name == "allowed_urls" else [value])
    return ""


def _address(name: str, value: str) -> Address:
    found = _ADDRESS.fullmatch(value)
    assert found is not None  # checked by _PATTERNS
    if found[4]:
        return Address("", 0, path=found[4])
    is_encrypted = found[1].lower() == "https"
    port = int(found[3]) if found[3] else _PORTS[name][not is_encrypted]
    return Address(found[2], port, is_encrypted)


def _wrong_object(value: str) -> str:
    try:
        if not isinstance(json.loads(value or "{}"), dict):
            return "is not a JSON object"
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return ""


def _wrong_patterns(patterns: Iterable[str]) -> str:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"is not a regular expression: {error}"
    return ""


def _no_effect(name: str) -> str:
    return f"{name} is accepted and has no effect here: {IGNORED[name].about}"


def _unknown(name: str, file: str) -> InvalidInput:
    fix = "docs/how-to/from-torchserve.md lists the keys."
    if near := difflib.get_close_matches(name, KEYS, 1):
        fix = f"Did you mean {near[0]}?"
    return InvalidInput(f"{file}: unknown key {name}", fix=fix)
