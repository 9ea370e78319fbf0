"""Distinct units of a release over all servers on one ledger.

A server stores units that are new to it in one row, eight bytes per unit, and reads the rows of others. One
row per unit in an index would take a hundred times as long, and grow; only releases with posted outcomes have
those as well, to find a unit by its number. This module counts nothing.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select

from salver.features.ledger.schema import CROWD

_ROWS_AT_ONCE = 10  # maximum units in a row, half a megabyte
_Units = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
NO_UNITS: Final[_Units] = np.empty(0, np.int64)


class DistinctUnits(NamedTuple):
    """Numbers of units, shape ``(n,)``, possibly with duplicates.

    Attributes:
        last: Id of the last row included; later rows have higher ids.
    """

    units: _Units
    last: int


def met(connection: Connection, release: str, after: int = 0) -> DistinctUnits:
    """Return the units that any server has stored.

    Args:
        after: Only rows after the one with this id.
    """
    query = select(CROWD.c.id, CROWD.c.units).where(CROWD.c.release == release, CROWD.c.id > after)
    rows = connection.execute(query.order_by(CROWD.c.id).execution_options(yield_per=_ROWS_AT_ONCE))
    told, last = bytearray(), after
    for row in rows:
        told += row.units
        last = row.id
    return DistinctUnits(np.frombuffer(told, "<i8"), last)


def meet(
    connection: Connection, release: str, units: _Units, after: int, known: int
) -> tuple[_Flags, DistinctUnits]:
    """Store those of these distinct units that no other server has stored.

    Args:
        after: Last row known to this server when it counted the first of these units as new.
        known: Last row that it knows now.

    Returns:
        A mask of the units that were new, and the units that others stored meanwhile, up to the row written
        now.
    """
    are_new = ~np.isin(units, met(connection, release, min(after, known)).units)
    others, last = met(connection, release, known)
    if are_new.any():
        row = {"release": release, "units": units[are_new].astype("<i8").tobytes()}
        last = int(connection.execute(insert(CROWD).values(row).returning(CROWD.c.id)).scalar_one())
    return are_new, DistinctUnits(others, last)
