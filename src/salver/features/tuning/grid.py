"""Which settings are there to choose from?

Pure: the machine's cores, what the model allows and what its owner has fixed in; cells out. The exhaustive
grid is what a sweep would measure; :meth:`Limits.placements` leaves out what can never win.
"""

import msgspec

from salver.features.tuning.profile import Cell

#: Batch sizes of a sweep.
SIZES = (1, 2, 4, 8, 16, 32)


class Placed(msgspec.Struct, frozen=True, order=True):
    """Where a model runs: so many runs at once, of so many threads each."""

    instances: int
    threads: int

    def __str__(self) -> str:
        return f"{self.instances} × {self.threads} thread{'s' if self.threads > 1 else ''}"


class Limits(msgspec.Struct, frozen=True):
    """What a choice may not leave.

    Attributes:
        cores: How many there are.
        shares: Several runs at once may share one loaded model; else there is one run, unless the owner
            asks for more.
        batched: The model has a batch dimension.
        instances, threads, rows: What the owner has fixed; 0 = open.
        memory_rows: Most rows that fit into memory; 0 = unknown, no limit.
    """

    cores: int
    shares: bool = True
    batched: bool = True
    instances: int = 0
    threads: int = 0
    rows: int = 0
    memory_rows: int = 0

    def sizes(self) -> tuple[int, ...]:
        """Batch sizes to measure, ascending; the last is the largest that may be chosen."""
        if not self.batched:
            return (1,)
        most = min(self.rows or SIZES[-1], self.memory_rows or SIZES[-1])
        if self.rows and not self.memory_rows:
            most = self.rows
        return (*(size for size in SIZES if size < most), most)

    def all_placements(self) -> tuple[Placed, ...]:
        """Every placement that keeps within the cores, and no others unless the owner asks for them."""
        powers = [1 << n for n in range(self.cores.bit_length())]
        steps = sorted({*powers, self.cores})
        counts = [self.instances] if self.instances else steps if self.shares else [1]
        found = set()
        for count in counts:
            threads = [self.threads] if self.threads else [t for t in steps if t * count <= self.cores] or [1]
            is_asked = count in (1, self.instances)
            found |= {Placed(count, t) for t in threads if is_asked or count * t <= self.cores}
        return tuple(sorted(found))

    def placements(self) -> tuple[Placed, ...]:
        """Those that can win, the one with most threads a run first.

        More instances of as many threads each do at least as much work: 1 × 1 never beats 2 × 1.
        """
        every = self.all_placements()
        best = {p.threads: p for p in every}  # ascending, so the last has most instances
        return tuple(sorted(best.values(), key=lambda p: -p.threads))

    def cells(self) -> tuple[Cell, ...]:
        """The exhaustive sweep."""
        return tuple(
            Cell(p.instances, p.threads, rows) for p in self.all_placements() for rows in self.sizes()
        )
