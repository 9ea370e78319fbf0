"""Quotas as they stand in a key's record: requests, rows, tokens or compute seconds a day or month.

Pure. Days and months are those of UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from salver.words.errors import InvalidInput

Unit = Literal["requests", "rows", "tokens", "compute-seconds"]
Span = Literal["day", "month"]
_UNITS: Final[dict[str, Unit]] = {
    "": "requests",
    "requests": "requests",
    "rows": "rows",
    "tokens": "tokens",
    "seconds": "compute-seconds",
    "compute-seconds": "compute-seconds",
}
_FORM: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?(?:e[0-9]{1,2})?) *([a-z-]*)/(day|month)")
#: Compute seconds are counted in microseconds.
_MICROS: Final = 1_000_000
_MOST: Final = 10**15


class QuotaRule(msgspec.Struct, frozen=True):
    """Quota of a key.

    Attributes:
        most: Most of it in the span; compute seconds in microseconds.
    """

    most: int
    unit: Unit
    span: Span

    @property
    def name(self) -> str:
        """Name without the number, as ``tokens/month``: what is used stays when the number changes."""
        return f"{self.unit}/{self.span}"

    @property
    def limit_name(self) -> str:
        """Name as of a limit, for example ``key-tokens-month``."""
        return f"key-{self.unit}-{self.span}"

    @property
    def amount(self) -> float:
        """Number in its unit."""
        return self.shown(self.most)

    def shown(self, count: int) -> float:
        """Return a count in the unit of the quota."""
        return count / _MICROS if self.unit == "compute-seconds" else count

    def __str__(self) -> str:
        """Return the quota as it is written, for example ``10000 requests/day``."""
        return f"{self.amount:.15g} {self.name}"


class Period(msgspec.Struct, frozen=True):
    """One day or month.

    Attributes:
        name: ``2026-11-30`` or ``2026-11``.
        begins, ends: Unix seconds.
    """

    name: str
    begins: float
    ends: float

    @property
    def seconds(self) -> int:
        """Length in seconds."""
        return round(self.ends - self.begins)


def parse_quota(text: str) -> QuotaRule:
    """Parse a quota such as ``10000/day`` (of requests), ``1e6 tokens/month`` or ``3600 seconds/day``.

    Raises:
        InvalidInput: the text is no quota, or more than this server can count.

    >>> parse_quota("10000/day")
    QuotaRule(most=10000, unit='requests', span='day')
    >>> str(parse_quota("1e6 tokens/month")), str(parse_quota("1.5 seconds/day"))
    ('1000000 tokens/month', '1.5 compute-seconds/day')
    """
    found = _FORM.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise InvalidInput(
            f"{text!r} is no quota",
            field="quota",
            fix="Write it as 10000/day, '1e6 tokens/month', '500 rows/day' or '3600 seconds/month'.",
        )
    unit = _UNITS[found[2]]
    number = float(found[1]) * (_MICROS if unit == "compute-seconds" else 1)
    if number > _MOST or not number.is_integer():
        raise InvalidInput(
            f"{text!r} cannot be counted",
            field="quota",
            fix=f"Give a whole number up to {_MOST:.0e}; seconds may have six decimals.",
        )
    return QuotaRule(int(number), unit, "day" if found[3] == "day" else "month")


def parse_quotas(texts: tuple[str, ...]) -> tuple[QuotaRule, ...]:
    """Parse the quotas of a key.

    Raises:
        InvalidInput: one is wrong, or two are of the same unit and span.
    """
    rules = tuple(map(parse_quota, texts))
    if len({rule.name for rule in rules}) < len(rules):
        raise InvalidInput("two quotas of one unit and span", field="quota", fix="Keep the lower one.")
    return rules


def period_of(span: Span, now: float) -> Period:
    """Return the day or month of a moment.

    >>> period_of("month", 1796083199.0).name, period_of("day", 1796083200.0).name
    ('2026-11', '2026-12-01')
    """
    moment = datetime.fromtimestamp(now, UTC)
    first = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "day":
        return Period(f"{first:%Y-%m-%d}", first.timestamp(), (first + timedelta(days=1)).timestamp())
    first = first.replace(day=1)
    after = (first + timedelta(days=32)).replace(day=1)
    return Period(f"{first:%Y-%m}", first.timestamp(), after.timestamp())
