"""Which units of a release have the servers on one ledger met, all of them together?

A server tells the units that are new to it in one row, by their numbers, eight bytes each, and reads what the
others have told since. A row of each unit, in an index, takes a hundred times as long, and ever longer; only
releases whose outcomes are posted have those, too, to find a unit by its number. It counts nothing.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select

from salver.features.ledger.schema import CROWD

_ROWS_AT_ONCE = 10  # half a megabyte each at most
_Units = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
NO_UNITS: Final[_Units] = np.empty(0, np.int64)


class Crowd(NamedTuple):
    """Numbers of units, shape ``(n,)``, each once at least.

    Attributes:
        last: Id of the last row that has some of them; rows that come later have higher ones.
    """

    units: _Units
    last: int


def met(connection: Connection, release: str, after: int = 0) -> Crowd:
    """Those that any server has told.

    Args:
        after: Only of rows that came after the one with this id.
    """
    query = select(CROWD.c.id, CROWD.c.units).where(CROWD.c.release == release, CROWD.c.id > after)
    rows = connection.execute(query.order_by(CROWD.c.id).execution_options(yield_per=_ROWS_AT_ONCE))
    told, last = bytearray(), after
    for row in rows:
        told += row.units
        last = row.id
    return Crowd(np.frombuffer(told, "<i8"), last)


def meet(connection: Connection, release: str, units: _Units, after: int, known: int) -> tuple[_Flags, Crowd]:
    """Tell those of these different units that no other server has told.

    Args:
        after: The last row that this server knew when it took the first of these units for a new one.
        known: The last row that it knows now.

    Returns:
        Which of them nobody had told; and what others have told meanwhile, up to the row that has come now.
    """
    are_new = ~np.isin(units, met(connection, release, min(after, known)).units)
    others, last = met(connection, release, known)
    if are_new.any():
        row = {"release": release, "units": units[are_new].astype("<i8").tobytes()}
        last = int(connection.execute(insert(CROWD).values(row).returning(CROWD.c.id)).scalar_one())
    return are_new, Crowd(others, last)
