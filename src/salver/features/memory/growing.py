"""Rows that versions may run while memory is short, and what they have grown by.

No runtime gives back the memory of its largest run, and none tells it beforehand. So where memory is short a
version does small runs first: each size is measured before the next one, twice as large, is allowed. What it
grows by is known after a few runs, and kept when it is loaded again.
"""

from collections.abc import Callable, Iterable
from typing import Final

from salver.features.memory.growth import LEAST, GrowthBook
from salver.features.memory.ports import Lifecycle, Outlined, Usage, Use
from salver.features.memory.snapshot import GrowthDemand
from salver.features.memory.states import Resident, Residents
from salver.words.events import BatchRan
from salver.words.messages import ModelId

#: Runs are not limited while more than this part of the budget is free.
_PLENTY: Final = 0.75


class Growing:
    """Growth of the versions in memory, and the limits of their runs.

    Attributes:
        wish: Larger runs for which there was no room.
    """

    def __init__(self, residents: Residents, lifecycle: Lifecycle) -> None:
        self._residents, self._lifecycle = residents, lifecycle
        self._book = GrowthBook()
        self._again = 0  # bytes since the last measurement by which versions have grown as they did before
        self.wish: GrowthDemand | None = None

    def __repr__(self) -> str:
        return f"<Growing, wish {self.wish}>"

    @property
    def has_news(self) -> bool:
        """Whether a version has done larger runs than before, and nobody has measured since."""
        return self._book.has_news

    def ran(self, runs: Iterable[BatchRan]) -> bool:
        """Note runs; return whether one was as large as it may be, and larger ones are possible."""
        is_larger = False
        for run in runs:
            id, rows = ModelId(run.model, run.version), run.rows + run.padding
            resident = self._residents.present.get(id)
            if resident is None or not resident.is_up:
                continue  # what it has grown by goes with it
            known = resident.known_rows
            is_larger |= self._book.ran(id, rows, known)
            if rows <= known and not resident.is_hosted:
                more = max(0, resident.activations.at(rows) - resident.grown)
                resident.grown += more
                self._again += more
        return is_larger and any(self._wants(each) for each in self._residents.present.values())

    def forget(self, id: ModelId) -> None:
        """Forget the runs of a version that is unloaded."""
        self._book.forget(id)

    def hosts(self, id: ModelId, usage: Usage) -> Use | None:
        """Return what the host processes of a version take together; None = it has none, or one has died."""
        servable = self._lifecycle.servable(id)
        if servable is None or not servable.processes:
            return None
        known = [usage.hosts[pid] for pid in servable.processes if pid in usage.hosts]
        if len(known) < len(servable.processes):
            return None
        return Use(*map(sum, zip(*known, strict=True)))

    # -- what they have grown by -----------------------------------------------------------------

    def surge(self, before: Use, after: Use, *, is_trimmed: bool) -> int:
        """Return by how many bytes the server exceeded for a moment what was known of it before or is now.

        Args:
            is_trimmed: What runs have freed was given back before the second measurement.
        """
        known = before.resident + self._again
        if is_trimmed:
            known = after.resident
        return max(0, after.peak - known)

    def learn(self, before: Usage, after: Usage, *, is_calm: bool) -> list[Resident]:
        """Put growth down to versions: of a host to its own, of the server to those with runs of a new size.

        Args:
            is_calm: Nothing came or went between the two measurements.

        Returns:
            Those of which something was learned.
        """
        news = self._book.take(id for id, each in self._residents.present.items() if each.place == "resident")
        learned: list[Resident] = []
        size, self._again = after.server.pss - before.server.pss - self._again, 0
        for id in news:
            if not (resident := self._residents.present[id]).is_hosted:
                learned.append(resident)
        for resident in learned:
            rows, known = news[resident.manifest.id], resident.activations
            beyond = known.at(rows) - known.bytes
            if is_calm:
                resident.grown += max(0, size) // len(learned)
                beyond = resident.grown - known.bytes
            _expand(resident, rows, beyond)
        for id, resident in self._residents.present.items():
            if resident.place == "resident" and resident.is_hosted:
                hosts = self.hosts(id, after)
                if hosts is not None and _grow_host(resident, hosts.own, news.get(id, 0)):
                    learned.append(resident)
        return learned

    # -- what they may run ------------------------------------------------------------------------

    def attach(self, resident: Resident, servable: Outlined) -> None:
        """Limit a version to single rows before it answers, until its load has been measured."""
        resident.grown = resident.leaked = 0
        resident.limit, resident.largest = 1, servable.largest_run
        servable.limit_rows(1)

    def allow(self, free: int, budget: int, ceiling: Callable[[Resident], float]) -> None:
        """Let versions do larger runs as room allows, those that are asked most first.

        Args:
            free: Bytes by which versions may grow.
            ceiling: Returns the bytes by which one may grow whatever is free.
        """
        self.wish = None
        present = [each for each in self._residents.present.values() if each.place == "resident"]
        for resident in sorted(present, key=lambda each: -each.expected(each.last)):
            servable = self._lifecycle.servable(resident.manifest.id)
            if servable is None:
                continue
            if free > _PLENTY * budget:
                self._limit(resident, servable, resident.largest)
                continue
            if self._wants(resident):
                more = min(resident.largest, resident.activations.next(resident.rows))
                size = resident.kept(more) - max(resident.grown, resident.kept(resident.rows))
                if size <= min(free, ceiling(resident)):
                    resident.rows = more
                    free -= max(0, size)
                elif self.wish is None:
                    self.wish = GrowthDemand(resident.manifest.id, size)
            self._limit(resident, servable, resident.rows)

    def retract(self) -> None:
        """Take back what versions may grow by and have not, as somebody waits for room."""
        for id, resident in self._residents.present.items():
            servable = self._lifecycle.servable(id)
            if resident.rows > resident.activations.rows and servable and not self._lifecycle.leases(id):
                resident.rows = resident.activations.rows
                self._limit(resident, servable, resident.rows)

    def _wants(self, resident: Resident) -> bool:
        """Return whether a version has done runs as large as it may, and could do larger ones."""
        return resident.limit < resident.largest and self._book.most(resident.manifest.id) >= resident.limit

    def _limit(self, resident: Resident, servable: Outlined, rows: int) -> None:
        rows = max(rows, self._book.most(resident.manifest.id))  # it has grown by that already
        sizes = resident.manifest.config.batching.sizes  # runs are padded to these
        if sizes:
            rows = max((size for size in sizes if size <= rows), default=sizes[0])
        rows = min(rows, resident.largest)
        if rows != resident.limit:
            resident.limit = rows
            servable.limit_rows(rows)


def _grow_host(resident: Resident, size: int, rows: int) -> bool:
    """Note what the hosts of a version take now; return whether larger runs explain some of it."""
    grown, known = max(0, size - resident.need.resident), resident.activations
    is_new = rows > known.rows or (rows > 0 and not known.points)
    if is_new:
        resident.grown = grown
        _expand(resident, rows, grown - known.bytes)
    resident.grown = min(grown, resident.kept(resident.activations.rows))
    resident.leaked = grown - resident.grown
    return is_new


def _expand(resident: Resident, rows: int, beyond: int) -> None:
    """Note what a version grows by in runs of so many rows, which are more than ever."""
    if beyond < LEAST:
        beyond = 0
    resident.activations = resident.activations.after(rows, beyond)
    resident.rows = max(resident.rows, rows)
