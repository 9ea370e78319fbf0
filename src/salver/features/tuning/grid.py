"""Possible settings of a model on a machine.

Pure: maps the number of cores, the limits of the model and fixed configuration to cells. The exhaustive grid
is what a full sweep measures; :meth:`Limits.placements` omits placements that can never be best.
"""

import msgspec

from salver.features.tuning.profile import Cell

#: Batch sizes of a sweep.
SIZES = (1, 2, 4, 8, 16, 32)


class GridPlacement(msgspec.Struct, frozen=True, order=True):
    """Placement of a model: concurrent runs and threads of each."""

    instances: int
    threads: int

    def __str__(self) -> str:
        return f"{self.instances} × {self.threads} thread{'s' * (self.threads > 1)}"


class Limits(msgspec.Struct, frozen=True):
    """Limits of a choice.

    Attributes:
        cores: Number of cores.
        shares: Concurrent runs may share one loaded model; else there is one run unless configured otherwise.
        batched: The model has a batch dimension.
        instances, threads, rows: Fixed by configuration; 0 = open.
        memory_rows: Maximum rows that fit in memory; 0 = unknown, no limit.
    """

    cores: int
    shares: bool = True
    batched: bool = True
    instances: int = 0
    threads: int = 0
    rows: int = 0
    memory_rows: int = 0

    def sizes(self) -> tuple[int, ...]:
        """Return the batch sizes to measure, ascending; the last is the largest allowed."""
        if not self.batched:
            return (1,)
        most = min(self.rows or SIZES[-1], self.memory_rows or SIZES[-1])
        if self.rows and not self.memory_rows:
            most = self.rows
        return (*(size for size in SIZES if size < most), most)

    def all_placements(self) -> tuple[GridPlacement, ...]:
        """Return every placement within the cores; others only if configured."""
        powers = [1 << n for n in range(self.cores.bit_length())]
        steps = sorted({*powers, self.cores})
        counts = steps if self.shares else [1]
        if self.instances:
            counts = [self.instances]
        found = set()
        for count in counts:
            threads = [self.threads] if self.threads else [t for t in steps if t * count <= self.cores] or [1]
            is_asked = count in (1, self.instances)
            found |= {GridPlacement(count, t) for t in threads if is_asked or count * t <= self.cores}
        return tuple(sorted(found))

    def placements(self) -> tuple[GridPlacement, ...]:
        """Return the placements that can be best, the one with most threads per run first.

        More instances with equally many threads do at least as much work: 1 × 1 never beats 2 × 1.
        """
        every = self.all_placements()
        best = {p.threads: p for p in every}  # ascending, so the last has most instances
        return tuple(sorted(best.values(), key=lambda p: -p.threads))

    def cells(self) -> tuple[Cell, ...]:
        """Return the exhaustive sweep."""
        return tuple(
            Cell(p.instances, p.threads, rows) for p in self.all_placements() for rows in self.sizes()
        )
