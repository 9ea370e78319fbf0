"""Options that several commands share, and functions that parse values."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from salver.terminal.output import on_terminal
from salver.words.errors import InvalidInput

#: Time that load balancers usually need to notice that a server is not ready.
_DRAIN_S: Final = 5.0
_MOST_DRAIN_S: Final = 3600.0

Url = Annotated[str, Parameter(help="URL of the server.", env_var="SALVER_URL")]
Json = Annotated[bool, Parameter(help="Print JSON, one object a line, instead of text.")]
Version = Annotated[
    str, Parameter(name="--model-version", help="Version of the model (default: the server's choice).")
]
Inputs = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--input", "-i"),
        help="NAME=VALUE for each input. VALUE is JSON ('x=[[1,2]]'), text for a BYTES tensor, "
        "or @FILE: .npy, .json, or any other file as the bytes of one element.",
    ),
]

Registry = Annotated[
    str,
    Parameter(
        name="--registry",
        env_var="SALVER_REGISTRY",
        help="Folder of a registry, or the URL of its ledger (postgresql://…).",
    ),
]
Artifacts = Annotated[
    str,
    Parameter(
        name="--artifacts",
        env_var="SALVER_ARTIFACTS",
        help="Folder of the registry's files, or s3://bucket/path (default: beside its ledger).",
    ),
]

DEFAULT_URL = "http://127.0.0.1:8000"


def token() -> str:
    """Return the key or token that commands send to a server, from ``SALVER_TOKEN``; empty = none."""
    return os.environ.get("SALVER_TOKEN", "")


def state_dir_of(given: str | None) -> str:
    """Return the folder that an option names, or the default one; empty = nothing is stored."""
    if given is not None:
        return given
    return default_state_dir()


def default_state_dir() -> str:
    """Return ``$XDG_STATE_HOME/salver``, by default ``~/.local/state/salver``; empty without a home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not Path(base).is_absolute():  # the specification has relative paths ignored
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError:
            return ""
    return str(Path(base) / "salver")


def drain_delay(given: float | str | None, environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds after SIGTERM in which a server is not ready and still answers.

    Args:
        given: None = ``SALVER_DRAIN_DELAY``, or 0 on a terminal and 5 elsewhere.

    Raises:
        InvalidInput: it is not a number from 0 to 3600.
    """
    if given is None:
        given = environment.get("SALVER_DRAIN_DELAY") or (0.0 if on_terminal() else _DRAIN_S)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_DRAIN_S:
        raise InvalidInput(
            f"the drain delay {given!r} is not a number of seconds from 0 to {_MOST_DRAIN_S:g}"
        )
    return seconds


def resources_of(settings: Iterable[str], flag: str) -> dict[str, int]:
    """Return the count of each resource in ``NAME:COUNT`` or ``NAME:COUNT:DEVICE``.

    The machine is the only device: of several counts of one name, the largest is used.

    Raises:
        InvalidInput: a setting has another form.

    >>> resources_of(["slots:2", "memory:8:0"], "--rate-limit-resource")
    {'slots': 2, 'memory': 8}
    """
    found: dict[str, int] = {}
    for setting in settings:
        name, *numbers = setting.split(":")
        if not name or not 1 <= len(numbers) <= 2 or not all(n.isascii() and n.isdigit() for n in numbers):
            raise InvalidInput(
                f"{flag} option format is '<resource_name>:<count>:<device>' or '<resource_name>:<count>'. "
                f"Got {setting}"
            )
        found[name] = max(found.get(name, 0), int(numbers[0][:12]))
    return found


def cache_of(words: Iterable[str], flag: str) -> dict[str, object]:
    """Return the table ``cache`` of ``local,size=1048576`` and its like; several of one cache add up.

    Args:
        flag: How the words were given, for messages.

    Raises:
        InvalidInput: two caches are named, or a setting is malformed.

    >>> cache_of(["redis,host=a", "redis,port=6379"], "--response-cache")
    {'name': 'redis', 'options': {'host': 'a', 'port': '6379'}}
    """
    found = ""
    options: dict[str, str] = {}
    for word in words:
        name, *settings = word.split(",")
        if not name or "=" in name:
            raise InvalidInput(f"{flag} {word!r} names no cache", fix="Write local,size=64m, for example.")
        if found not in ("", name):
            raise InvalidInput(f"{flag}: there can be one cache, not both {found!r} and {name!r}")
        found = name
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not key or not equals:
                raise InvalidInput(f"{flag} {word!r}: {setting!r} is not a setting", fix="Write KEY=VALUE.")
            options[key] = value
    return {"name": found, "options": options}
