"""Conditions of rules on the facts of a request. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from salver.features.routing.rules.document import ANY, When
from salver.words.messages import InferRequest, Parameter
from salver.words.releases import HEADER, PARAMETER, trait
from salver.words.sizes import byte_count
from salver.words.tensor import size_of

_COMPARISON: Final = re.compile(r"(<=|>=|<|>|=)\s*(.+)")
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)(?: (\S+))?")


class Facts(msgspec.Struct, frozen=True):
    """Facts of a request that rules read.

    Attributes:
        version: Version, label or alias that the caller named.
        now: Unix seconds.
        traits: Headers, as ``header:NAME``, and parameters that are known early (OpenAI's ``user``).
        tenant, parameters, rows, size: None = not known before the request is decoded.
    """

    model: str
    version: str
    now: float
    traits: Mapping[str, str]
    tenant: str | None = None
    parameters: Mapping[str, Parameter] | None = None
    rows: int | None = None
    size: int | None = None

    def decoded(self, request: InferRequest) -> "Facts":
        """Return the facts with those of the decoded request."""
        shape = request.inputs[0].shape if request.inputs else ()
        return msgspec.structs.replace(
            self,
            tenant=self.tenant or trait(request.parameters.get("tenant", "")),
            parameters=request.parameters,
            rows=shape[0] if shape else 1,
            size=size_of(request.inputs),
        )


class OneOf(msgspec.Struct, frozen=True):
    """Texts, one of which a fact has to be; it is empty where the request does not have it."""

    values: frozenset[str]

    def has(self, value: str) -> bool:
        """Return whether a value is among them."""
        return value in self.values or (ANY in self.values and value != "")

    def covers(self, other: object) -> bool:
        """Return whether it has all that the other one has."""
        if not isinstance(other, OneOf):
            return False
        return other.values <= self.values or (ANY in self.values and "" not in other.values)

    def __str__(self) -> str:
        return " or ".join(sorted(self.values))


class Between(msgspec.Struct, frozen=True):
    """Numbers, both ends included."""

    low: float
    high: float
    text: str

    def has(self, value: float) -> bool:
        """See :meth:`OneOf.has`."""
        return self.low <= value <= self.high

    def covers(self, other: object) -> bool:
        """See :meth:`OneOf.covers`."""
        return isinstance(other, Between) and self.low <= other.low and other.high <= self.high

    def __str__(self) -> str:
        return self.text


class Hours(msgspec.Struct, frozen=True):
    """Minutes of the day in a zone, without the last one; a day goes over into the next."""

    first: int
    last: int
    zone: tzinfo
    text: str

    def has(self, value: float) -> bool:
        """Return whether Unix seconds are among them."""
        local = datetime.fromtimestamp(value, self.zone)
        minute = 60 * local.hour + local.minute
        if self.first <= self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last

    def covers(self, other: object) -> bool:
        """See :meth:`OneOf.covers`; other hours are not compared."""
        return self == other

    def __str__(self) -> str:
        return self.text


class Condition(NamedTuple):
    """Condition on one fact.

    Attributes:
        field: Its key in the file, such as ``header.x-plan``.
        read: Returns the fact; None = not known yet.
    """

    field: str
    wanted: OneOf | Between | Hours
    read: Callable[[Facts], Any]

    def holds(self, facts: Facts) -> bool | None:
        """Return whether it holds; None = not known yet."""
        value = self.read(facts)
        return None if value is None else self.wanted.has(value)


def conditions_of(when: When) -> list[Condition]:
    """Return the conditions.

    Raises:
        ValueError: one of them is wrong; the text names its field.
    """
    found = [
        Condition("model", _texts(when.model), lambda facts: facts.model),
        Condition("version", _texts(when.version), lambda facts: facts.version),
        Condition("tenant", _texts(when.tenant), lambda facts: facts.tenant),
    ]
    found = [each for each in found if each.wanted != OneOf(frozenset())]
    for name, values in when.header.items():
        if name != name.lower():
            raise ValueError(f"when.header.{name} has capital letters; write {name.lower()}")
        found.append(Condition(f"header.{name}", _texts(values), _header(name)))
    for name, some in when.parameter.items():
        found.append(Condition(f"parameter.{name}", _texts(some), _parameter(name)))
    if when.hours:
        found.append(Condition("hours", _hours(when.hours), lambda facts: facts.now))
    if when.rows:
        found.append(Condition("rows", _between("rows", when.rows, int), lambda facts: facts.rows))
    if when.size:
        found.append(Condition("size", _between("size", when.size, byte_count), lambda facts: facts.size))
    return found


def _header(name: str) -> Callable[[Facts], str]:
    source = HEADER + name
    return lambda facts: facts.traits.get(source, "")


def _parameter(name: str) -> Callable[[Facts], str | None]:
    source = PARAMETER + name

    def read(facts: Facts) -> str | None:
        if source in facts.traits:
            return facts.traits[source]
        if facts.parameters is None:
            return None
        return trait(facts.parameters.get(name, ""))

    return read


def _texts(values: Parameter | Iterable[Parameter]) -> OneOf:
    some = [values] if isinstance(values, Parameter) else values
    return OneOf(frozenset(map(trait, some)))


def _between(field: str, text: str, number_of: Callable[[str], int]) -> Between:
    match = _COMPARISON.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        number = number_of(match[2])
    except ValueError:
        example = "> 1MiB" if field == "size" else "> 64"
        raise ValueError(f"when.{field} is {text!r}, and not a comparison such as {example!r}") from None
    low, high = {
        "<": (-math.inf, number - 1),
        "<=": (-math.inf, number),
        "=": (number, number),
        ">=": (number, math.inf),
        ">": (number + 1, math.inf),
    }[match[1]]
    return Between(low, high, text)


def _hours(text: str) -> Hours:
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError(f"when.hours is {text!r}, and not such as '22:00-06:00 Europe/Berlin'")
    zone: tzinfo = UTC
    if match[5]:
        try:
            zone = ZoneInfo(match[5])
        except (KeyError, ValueError, OSError) as error:  # unknown, outside the folder of zones, or a folder
            raise ValueError(f"when.hours: there is no time zone {match[5]!r}") from error
    first, last = 60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4])
    if first == last:
        raise ValueError(f"when.hours is {text!r}, which is no time at all")
    return Hours(first, last, zone, text)
