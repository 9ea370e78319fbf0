"""Distinct units of a release over all servers on one ledger.

A server stores units that are new to it in one row, eight bytes per unit, and reads the rows of others. One
row per unit in an index would take a hundred times as long, and grow; only releases with posted outcomes have
those as well, to find a unit by its number. Each stage after the first has rows of its own, for the units
that were seen in it. This module counts nothing.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select

from salver.features.ledger.schema import CROWD
from salver.words.releases import NO_STAGE

_ROWS_AT_ONCE = 10  # maximum units in a row, half a megabyte
_Units = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
NO_UNITS: Final[_Units] = np.empty(0, np.int64)


class DistinctUnits(NamedTuple):
    """Numbers of units, possibly with duplicates.

    Attributes:
        by_stage: Units of a stage, shape ``(n,)``, and of the release under
            :data:`~salver.words.releases.NO_STAGE`.
        last: Id of the last row included; later rows have higher ids.
    """

    by_stage: Mapping[int, _Units]
    last: int

    @property
    def units(self) -> _Units:
        """Return the units of the release."""
        return self.by_stage.get(NO_STAGE, NO_UNITS)


def met(connection: Connection, release: str, after: int = 0) -> DistinctUnits:
    """Return the units that any server has stored.

    Args:
        after: Only rows after the one with this id.
    """
    query = select(CROWD.c.id, CROWD.c.stage, CROWD.c.units).where(
        CROWD.c.release == release, CROWD.c.id > after
    )
    rows = connection.execute(query.order_by(CROWD.c.id).execution_options(yield_per=_ROWS_AT_ONCE))
    told: dict[int, bytearray] = {}
    last = after
    for row in rows:
        told.setdefault(row.stage, bytearray()).extend(row.units)
        last = row.id
    return DistinctUnits({stage: np.frombuffer(units, "<i8") for stage, units in told.items()}, last)


def meet(
    connection: Connection, release: str, by_stage: Mapping[int, _Units], after: int, known: int
) -> tuple[Mapping[int, _Flags], DistinctUnits]:
    """Store those of these distinct units that no other server has stored.

    Args:
        by_stage: As in :class:`DistinctUnits`.
        after: Last row known to this server when it counted the first of these units as new.
        known: Last row that it knows now.

    Returns:
        Masks of the units that were new, and the units that others stored meanwhile, up to the row written
        now.
    """
    stored = met(connection, release, min(after, known)).by_stage
    are_new = {stage: ~np.isin(units, stored.get(stage, NO_UNITS)) for stage, units in by_stage.items()}
    others, last = met(connection, release, known)
    for stage, units in by_stage.items():
        new = units[are_new[stage]]
        if len(new):
            row = {"release": release, "stage": stage, "units": new.astype("<i8").tobytes()}
            last = int(connection.execute(insert(CROWD).values(row).returning(CROWD.c.id)).scalar_one())
    return are_new, DistinctUnits(others, last)
