"""Parts of dates as numbers, with cycles as points on a circle."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import ClassVar, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np

from salver.features.pipelines.steps.columns import NUMBER, TEXT, check_names
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import NULL, Column
from salver.words.tensor import Array

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400


def _seconds_of_day(time: datetime) -> float:
    return time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6


def _day_of_year(time: datetime) -> int:
    return time.timetuple().tm_yday


def _circle(turns: float) -> tuple[float, float]:
    return math.sin(2 * math.pi * turns), math.cos(2 * math.pi * turns)


#: Numbers of a part, from the local time. The days of a week begin with Monday, 0.
_PARTS: Final[Mapping[str, Callable[[datetime], tuple[float, ...]]]] = {
    "year": lambda time: (time.year,),
    "month": lambda time: (time.month,),
    "day": lambda time: (time.day,),
    "hour": lambda time: (time.hour,),
    "minute": lambda time: (time.minute,),
    "second": lambda time: (time.second,),
    "weekday": lambda time: (time.weekday(),),
    "day-of-year": lambda time: (_day_of_year(time),),
    "is-weekend": lambda time: (float(time.weekday() > 4),),
    "epoch": lambda time: ((time - _EPOCH).total_seconds(),),
    "day-cycle": lambda time: _circle(_seconds_of_day(time) / _DAY),
    "week-cycle": lambda time: _circle((time.weekday() + _seconds_of_day(time) / _DAY) / 7),
    "month-cycle": lambda time: _circle((time.month - 1) / 12),
    "year-cycle": lambda time: _circle((_day_of_year(time) - 1 + _seconds_of_day(time) / _DAY) / 365.25),
}
Part = Literal[
    "year", "month", "day", "hour", "minute", "second", "weekday", "day-of-year", "is-weekend", "epoch",
    "day-cycle", "week-cycle", "month-cycle", "year-cycle",
]  # fmt: skip


class Dates(Step, frozen=True):
    """Parts of the dates in each column, side by side; NaN for a missing date.

    Attributes:
        columns: Names of the columns.
        parts: Parts in their order; a cycle gives two numbers, its sine and cosine.
        zone: Time zone of the parts (IANA, such as ``Europe/Berlin``).
        form: ``iso`` = texts of ISO 8601, in UTC unless they have an offset; ``epoch`` = seconds since 1970.
    """

    by_name: ClassVar = True

    columns: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ("year", "month", "day", "weekday")
    zone: str = "UTC"
    form: Literal["iso", "epoch"] = "iso"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not self.columns or not self.parts:
            raise LoadFailed("dates: there are no columns or no parts")
        check_names("dates", self.columns)
        width = sum(len(_PARTS[part](_EPOCH)) for part in self.parts)
        kind = TEXT if self.form == "iso" else NUMBER
        return dict.fromkeys(self.columns, kind), dict.fromkeys(self.columns, f"FP64[rows, {width}]")

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        kind: Literal["date", "number"] = "date" if self.form == "iso" else "number"
        return dict.fromkeys(self.columns, Column(kind, takes_null=True))

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        try:
            zone: tzinfo = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError) as error:
            fix = "Use a name such as Europe/Berlin; small systems need the package tzdata for them."
            raise LoadFailed(f"dates: there is no time zone {self.zone!r}", fix=fix) from error
        parts = [_PARTS[part] for part in self.parts]
        width = sum(len(part(_EPOCH)) for part in parts)
        read = moment_of_text if self.form == "iso" else _moment_of_number

        def encoded(name: str, values: Array) -> Array:
            found = np.full((len(values), width), np.nan)
            for row, value in enumerate(values.tolist()):
                if value == NULL or value != value:
                    continue
                try:
                    time = read(value).astimezone(zone)
                except (ValueError, OverflowError) as error:
                    form = "a date of ISO 8601" if self.form == "iso" else "seconds since 1970"
                    shown = value.decode(errors="replace") if isinstance(value, bytes) else value
                    problem = f"row {row}: column {name!r} must be {form}, not {str(shown)[:40]!r}"
                    raise InvalidInput(problem, field=name) from error
                found[row] = [number for part in parts for number in part(time)]
            return found

        def run(arrays: Arrays) -> Arrays:
            return {name: encoded(name, arrays[name]) for name in self.columns}

        return run


def moment_of_text(value: bytes) -> datetime:
    """Return the moment of a text in ISO 8601, which is in UTC unless it has an offset.

    >>> moment_of_text(b"2026-01-31T08:00:00+01:00").isoformat()
    '2026-01-31T08:00:00+01:00'

    Raises:
        ValueError: it is no such text.
    """
    found = datetime.fromisoformat(value.decode().strip())
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _moment_of_number(value: float) -> datetime:
    return _EPOCH + timedelta(seconds=value)
