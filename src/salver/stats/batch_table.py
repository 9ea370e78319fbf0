"""Table of batch sizes by waiting rows and arrival rate.

:class:`Table` is made by the planner, stored as JSON, and looked up before each run; :class:`Transition` is
the observation of a decision, for learning. Pure: bytes in, bytes out.
"""

import math
from typing import Final, Literal, NamedTuple

import msgspec

from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.words.errors import InvalidInput

#: Increased whenever the meaning of a field changes; tables of other formats are computed again.
FORMAT = 1
MOST_ROWS = 1024
_MOST_RATES = 64
_MOST_BYTES = 1 << 20


class Transition(NamedTuple):
    """A decision and its outcome.

    Attributes:
        waiting: Waiting rows.
        rows: Rows that were run; 0 = waited for one arrival.
        seconds: Until the next decision.
        area: Total row-seconds that rows arriving meanwhile have waited by then.
        arrived: Rows that arrived meanwhile.
        rate: Estimated rows per second.
    """

    waiting: int
    rows: int
    seconds: float
    area: float
    arrived: int
    rate: float


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows to run, for one law and one price.

    Attributes:
        law, price: Law and price for which it was made.
        largest: Maximum rows of a run in the table (M).
        rates: Rows per second of one instance, ascending.
        rows: By rate, then by waiting rows 0..M: rows to run, 0 = wait. Longer queues are drained.
        costs: Long-run cost of the table at each rate, see :class:`Price`.
        greedy_costs: Cost of draining.
        best_costs: Cost of the best policy.
        method: ``exact`` (solved) or ``learned`` (from simulated or live runs).
    """

    law: BatchLaw
    price: Price
    largest: int
    rates: tuple[float, ...]
    rows: tuple[tuple[int, ...], ...]
    costs: tuple[float, ...]
    greedy_costs: tuple[float, ...]
    best_costs: tuple[float, ...]
    method: Literal["exact", "learned"]
    format: int = FORMAT

    @property
    def is_greedy(self) -> bool:
        """Return whether it never waits and always takes all waiting rows."""
        drain = tuple(range(self.largest + 1))
        return all(rows == drain for rows in self.rows)

    @property
    def limits(self) -> tuple[int, ...]:
        """Return the least number of waiting rows that is served, by rate."""
        return tuple(next(n for n, rows in enumerate(line) if rows) for line in self.rows)

    def is_for(self, law: BatchLaw, price: Price, tolerance: float = 0.05) -> bool:
        """Return whether it was made for this price, and for a law that differs by at most ``tolerance``."""
        if price != self.price:
            return False
        # Laws are piecewise linear: equal at both ends and in the middle means nearly equal between them.
        sizes = {1, self.largest // 2 or 1, self.largest}
        return all(abs(law.seconds(b) / self.law.seconds(b) - 1) <= tolerance for b in sizes)


_read_table: Final = msgspec.json.Decoder(Table).decode


def to_bytes(table: Table) -> bytes:
    """Return the stored form of the table."""
    return msgspec.json.encode(table)


def from_bytes(content: bytes) -> Table:
    """Parse a table written by :func:`to_bytes`.

    Raises:
        InvalidInput: it is too large, broken, of another format, or unusable for serving.
    """
    if len(content) > _MOST_BYTES:
        raise InvalidInput(f"a batch table of {len(content)} bytes is larger than {_MOST_BYTES}")
    try:
        table = _read_table(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a batch table: {error}") from error
    if table.format != FORMAT:
        raise InvalidInput(f"a batch table of format {table.format}; this version reads {FORMAT}")
    problem = _problem(table)
    if problem:
        raise InvalidInput(f"an impossible batch table: {problem}")
    return table


def _problem(table: Table) -> str:
    law, price = table.law, table.price
    numbers = (law.a, law.t0, law.a_beyond, law.error, *msgspec.structs.astuple(price))
    numbers += (*table.rates, *table.costs, *table.greedy_costs, *table.best_costs)
    count = len(table.rates)
    checks = (
        (1 <= table.largest <= MOST_ROWS, f"largest is not within 1..{MOST_ROWS}"),
        (1 <= count <= _MOST_RATES, f"not 1..{_MOST_RATES} rates"),
        (all(0 <= number < math.inf for number in numbers), "a number is negative or not finite"),
        (law.seconds(1) > 0 and law.kink >= 0, "runs take no time"),
        (
            all(low < high for low, high in zip((0.0, *table.rates), table.rates, strict=False)),
            "rates do not ascend",
        ),
        (
            {len(table.rows), len(table.costs), len(table.greedy_costs), len(table.best_costs)} == {count},
            "rates, rows and costs differ in number",
        ),
        (
            all(
                len(line) == table.largest + 1
                and line[-1] > 0
                and all(0 <= rows <= waiting for waiting, rows in enumerate(line))
                for line in table.rows
            ),
            "runs of more rows than wait, or a full queue that is not served",
        ),
    )
    # The first problem is enough: such a table is not repaired.
    return next((problem for holds, problem in checks if not holds), "")
