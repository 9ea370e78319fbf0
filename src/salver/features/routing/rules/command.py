"""``salver route``: the rules of a server or a file, and which of them decides on a request."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, listed, record, remark
from salver.words.errors import InvalidInput
from salver.words.releases import HEADER
from salver.words.tensor import DataType

_COLUMNS: Final = ("rule", "when", "then", "matched", "missing")
_MOST_BYTES: Final = 64 << 20
_Pairs = Annotated[tuple[str, ...], Parameter(help="NAME=VALUE; may be repeated.")]

route = App(name="route", help="Show and check the rules on requests, and explain which one decides.")


@route.command(name="list")
def list_rules(*, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show the rules of a server with the number of requests on which each has decided.

    Needs the right to read where the server has keys. Set SALVER_TOKEN to the key.
    """
    found = _ask(url)
    if json:
        record(found)
        return
    listed(found["rules"], _COLUMNS, _texts, json=False, none=f"there are no rules in {found['file']}")
    if found["problem"]:
        remark(f"these are not the rules of the file, which is wrong: {found['problem']}")


@route.command
def check(file: Path) -> None:
    """Check a file of rules as a server checks it.

    Args:
        file: A rules.toml.
    """
    from salver.features.routing.rules.reading import read

    line(f"{len(read(file).rules)} rules are right")


@route.command
def explain(
    request: Path | None = None,
    *,
    model: str = "",
    model_version: str = "",
    header: _Pairs = (),
    parameter: _Pairs = (),
    tenant: str = "",
    rows: int | None = None,
    size: str = "",
    at: str = "",
    file: Path | None = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show which rule decides on a request, and why the ones before it do not.

    Args:
        request: JSON of an inference request of the Open Inference Protocol, for parameters, rows and size.
        model: Name of the model that is asked.
        model_version: Version, label or alias that is named.
        tenant: Tenant of the request.
        rows: Rows of its first input (default: of the JSON, or 1).
        size: Bytes of its inputs, such as 2MiB (default: of the numbers of the JSON).
        at: Time as ISO 8601 has it, such as 2026-12-01T22:30+01:00 (default: now).
        file: A rules.toml (default: the rules of the server).
    """
    from salver.features.routing.rules import conditions, table
    from salver.features.routing.rules.document import Rule
    from salver.features.routing.rules.reading import read
    from salver.words.sizes import byte_count

    if file is None:
        found = _ask(url)
        rules = table.RuleTable([msgspec.convert(each["rule"], Rule) for each in found["rules"]], url)
    else:
        rules = read(file)
    sent = _sent(request)
    facts = conditions.Facts(
        model or sent.model_name,
        model_version,
        _unix(at),
        {HEADER + name.lower(): value for name, value in _pairs("--header", header).items()},
        tenant or str(sent.parameters.get("tenant", "")),
        {**sent.parameters, **_pairs("--parameter", parameter)},
        sent.rows if rows is None else rows,
        byte_count(size) if size else sent.size,
    )
    explained = [
        {"rule": name, "outcome": outcome, "why": why} for name, outcome, why in table.explain(rules, facts)
    ]
    listed(explained, ("rule", "outcome", "why"), lambda row: list(row.values()), json=json, none="no rules")


class _Input(msgspec.Struct, frozen=True):
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown datatype."""
        if self.datatype not in DataType.__members__:
            raise ValueError(f"there is no datatype {self.datatype!r}")


class _Request(msgspec.Struct, frozen=True):
    """Inference request, as far as rules read it."""

    inputs: tuple[_Input, ...] = ()
    parameters: dict[str, bool | int | float | str] = {}
    model_name: str = ""

    @property
    def rows(self) -> int:
        return self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else 1

    @property
    def size(self) -> int:
        return sum(prod(each.shape) * DataType[each.datatype].itemsize for each in self.inputs)


_DECODER: Final = msgspec.json.Decoder(_Request)


def _sent(path: Path | None) -> _Request:
    from salver.backends.loading import read_bounded

    if path is None:
        return _Request()
    try:
        return _DECODER.decode(read_bounded(path, _MOST_BYTES))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} is no inference request: {error}") from error


def _pairs(flag: str, texts: Sequence[str]) -> Mapping[str, str]:
    for text in texts:
        if "=" not in text:
            raise InvalidInput(f"{flag} {text!r} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _unix(text: str) -> float:
    if not text:
        return time.time()
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise InvalidInput(f"--at {text!r} is no time", fix="Write it as 2026-12-01T22:30+01:00.") from error


def _ask(url: str) -> dict[str, Any]:
    from salver.client import Client

    async def asked() -> bytes:
        async with Client(url, token=token()) as client:
            return await client.api("GET", "/rules")

    found: dict[str, Any] = msgspec.json.decode(asyncio.run(asked()))
    return found


def _texts(row: dict[str, Any]) -> list[str]:
    rule = row["rule"]
    then = rule.get("refuse") or rule.get("set") or {}
    return [
        rule["name"],
        _listed(rule.get("when", {})),
        ("refuse: " if "refuse" in rule else "") + _listed(then),
        str(row["matched"]),
        ", ".join(row["missing"]),
    ]


def _listed(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} {value}" for key, value in values.items())
