"""Metrics as lines of text (TS-A9, TS-B14).

``Name.unit:value|#Dimension:value,…|#type:COUNTER|#hostname:host,time,request`` as handlers write them, and
nearly the same in log files. Pure.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

Kind = Literal["counter", "gauge", "histogram"]
_LINE: Final = re.compile(
    r"(?:\[METRICS\])?\s*([\w\s]{1,200}+)\.([\w\s]{1,200}+):([0-9\-,.e]{1,40}+)\|#([^|]{0,4096}+)"
    r"(?:\|#type:([^|,]{1,20}+))?\|#hostname:([^,]{1,300}+),([^,]{1,40}+)(?:,(.{0,300}))?",
    re.ASCII,
)
_MOST_DIMENSIONS: Final = 32
_KINDS: Final[dict[str, Kind]] = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}


class HandlerMetric(msgspec.Struct, frozen=True):
    """A metric parsed from a line.

    Attributes:
        kind: None = not given.
        dimensions: Names and values.
        request: Id of the request during which it was written; may be empty.
    """

    name: str
    unit: str
    value: float
    dimensions: tuple[tuple[str, str], ...] = ()
    kind: Kind | None = None
    host: str = ""
    request: str = ""


def parse(line: str) -> HandlerMetric | None:
    """Return the metric in a line; None if it has none.

    >>> parse("[METRICS]Calls.Count:2|#ModelName:m,Level:Model|#type:COUNTER|#hostname:h,17,r").name
    'Calls'
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    try:
        value = float(found[3])
    except ValueError:
        return None
    pairs = [pair.split(":") for pair in found[4].split(",")[:_MOST_DIMENSIONS]]
    return HandlerMetric(
        found[1],
        found[2],
        value,
        tuple([(pair[0], pair[1]) for pair in pairs if len(pair) == 2]),
        _KINDS.get((found[5] or "").lower()),
        found[6],
        found[8] or "",
    )


class Frame(NamedTuple):
    """Common parts of all lines of a series in TorchServe's log files."""

    head: str
    tail: str

    @classmethod
    def of(cls, name: str, unit: str, dimensions: Sequence[tuple[str, str]], host: str) -> "Frame":
        """Return the frame of a series."""
        labels = ",".join([f"{key}:{text}" for key, text in dimensions])
        return cls(f"{name}.{unit}:", f"|#{labels}|#hostname:{host}")

    def lines(self, values: Sequence[float], at: float, request: str = "") -> list[str]:
        """Return a line for each value.

        Args:
            at: Unix time.
            request: Id of the request during which they were counted; may be empty.

        >>> Frame.of("QueueTime", "Milliseconds", [("Level", "Host")], "h").lines([3.0], 17.9)
        ['QueueTime.Milliseconds:3.0|#Level:Host|#hostname:h,timestamp:17']
        """
        end = f",timestamp:{int(at)}"
        if request:
            end = f",requestID:{request}{end}"
        lines = {value: f"{self.head}{value}{self.tail}{end}" for value in set(values)}  # many are equal
        return [lines[value] for value in values]
