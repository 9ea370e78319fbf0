"""Record of each version for the memory budget: its place, its need, and its requests."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from salver.features.memory.estimates import Need, with_margin
from salver.features.memory.growth import Activations
from salver.features.memory.snapshot import DevicePart, Place, Version
from salver.kernel.lifecycle.ports import Outline
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

_HALF_LIVES_S: Final = (60.0, 600.0, 6e3, 6e4, 6e5)  # a minute to a week: recency and frequency in one sum
#: Long ones weigh somewhat more: a request counts by its age to the power of -0.95.
_WEIGHTS: Final[Sequence[float]] = [half**0.05 for half in _HALF_LIVES_S]
_WHOLE: Final = sum(_WEIGHTS)
_SHOWN: Final = 1  # ten minutes
_LEAST_STAY_S: Final = 0.1  # so that those who waited for it are served first


class Resident:
    """One version, for the life of the server.

    Attributes:
        place: Where it is.
        need: Bytes that it takes once it is loaded, before it has grown.
        is_measured: ``need`` was measured, not estimated.
        is_scaled: ``need`` was estimated by what an earlier version of the model takes.
        loads, evictions: How often it came and went.
        why: Why it went last (``residence.REASONS``); empty = it never did.
        stays: Why it never makes room; empty = it may.
        since, last: When it came into memory, and when it was asked last.
        reload_s: Seconds of its last load.
        outline: What was learned of it when it was loaded; None = it never was.
        activations: What it grows by while it answers, by rows of a run.
        rows: Rows of a run that memory is kept for.
        limit: Rows of a run that it may do now.
        largest: Rows of a run that its configuration and the model allow.
        grown: Bytes that it has grown by since it was loaded last.
        leaked: Of a version in host processes, bytes beyond its need that no larger run explains.
        is_hosted: It runs in host processes, whose memory is its own.
        devices: What it takes on devices with a budget, by their names.
    """

    def __init__(self, manifest: Manifest, need: Need, now: float) -> None:
        self.manifest = manifest
        self.place: Place = "absent"
        self.need = need
        self.is_measured = self.is_scaled = False
        self.loads = self.evictions = 0
        self.why = ""
        self.stays = ""
        self.since = self.last = now
        self.reload_s = 1.0
        self.outline: Outline | None = None
        self.activations = Activations()
        self.rows = self.limit = self.largest = 1
        self.grown = self.leaked = 0
        self.is_hosted = False
        self.devices: Mapping[str, DevicePart] = {}
        self._rates, self._rated_at = [0.0] * len(_HALF_LIVES_S), now

    def __repr__(self) -> str:
        return f"<Resident {self.manifest.id} {self.place}, {self.bytes} bytes>"

    @property
    def bytes(self) -> int:
        """Bytes that it takes or may take: what it needs, activations, and what it has leaked."""
        return self.need.resident + max(self.grown, self.kept(self.rows)) + self.leaked

    def kept(self, rows: int) -> int:
        """Return the bytes that are kept for runs of so many rows, beyond what is needed anyway."""
        return with_margin(self.activations.at(rows))

    @property
    def known_rows(self) -> int:
        """Rows of the largest run whose growth is known; 0 = of none, as hosts are not warmed up."""
        if self.is_hosted and not self.activations.points:
            return 0
        return self.activations.rows

    @property
    def ceiling(self) -> int:
        """Bytes that it may take; 0 = the budget."""
        return int(self.manifest.config.memory.max_mb * (1 << 20))

    @property
    def is_up(self) -> bool:
        """Whether it is in memory, or on its way."""
        return self.place in ("loading", "resident")

    @property
    def is_settled(self) -> bool:
        """Whether it neither comes nor goes."""
        return self.place in ("absent", "resident")

    def asked(self, requests: int, now: float) -> None:
        """Count requests that were answered."""
        self._rates = [
            rate + requests * math.log(2) / half
            for rate, half in zip(self._faded(now), _HALF_LIVES_S, strict=True)
        ]
        self._rated_at = self.last = now

    def _faded(self, now: float) -> list[float]:
        age = now - self._rated_at
        return [rate * math.exp2(-age / half) for rate, half in zip(self._rates, _HALF_LIVES_S, strict=True)]

    def rate(self, now: float) -> float:
        """Return the requests per second, with a half-life of ten minutes."""
        return self._faded(now)[_SHOWN]

    def expected(self, now: float) -> float:
        """Return the requests per second that are expected: a mean of the rates by all half-lives.

        It closes more of the gap to Belady on a trace than any one of them (``benchmarks/model_swaps.py``).
        """
        rates = zip(_WEIGHTS, self._faded(now), strict=True)
        return sum(weight * rate for weight, rate in rates) / _WHOLE

    def version(
        self, now: float, chance: float = 0.0, *, is_held: bool = False, restarts: bool = False
    ) -> Version:
        """Return what the policy needs to know.

        Args:
            chance: That it is asked within the horizon of a load ahead.
        """
        wish = self.manifest.config.memory
        return Version(
            self.manifest.id,
            self.place,
            self.bytes,
            max(self.need.peak, self.bytes),
            self.leaked,
            least=max(self.need),
            due=max(0, self.kept(self.rows) - self.grown),
            is_pinned=bool(self.stays),
            is_held=is_held,
            restarts=restarts,
            is_estimated=not (self.is_measured or self.is_hosted),
            is_guess=not (self.is_measured or self.is_hosted or self.is_scaled),
            since=self.since,
            last=self.last,
            rate=self.expected(now),
            chance=chance,
            reload_s=self.reload_s,
            priority=wish.priority,
            idle_s=wish.idle_s,
            min_s=max(wish.min_s, _LEAST_STAY_S),
            tenant=wish.tenant,
            share=int(wish.share_mb * (1 << 20)),
            devices=self.devices,
        )


def stays(manifest: Manifest) -> str:
    """Return why a version is loaded at the start and never makes room; empty = it may come and go.

    What depends on it, its state, or the form of its answers must be known before a request is read.
    """
    config = manifest.config
    reasons = (
        (config.memory.residence == "pinned", "it is pinned"),
        (bool(config.sequences.strategy), "it keeps the state of sequences"),
        (bool(config.steps.vocabulary), "it keeps the state of generations"),
        (config.workers is not None, "it has workers of its own"),
        (bool(config.ensemble.models), "it is made of other models"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def members(manifests: Iterable[Manifest]) -> frozenset[str]:
    """Return the models that ensembles and pipelines among these are made of."""
    return frozenset(name for manifest in manifests for name, _ in manifest.config.ensemble.models)


class Residents:
    """Records of all wanted versions, by place.

    Attributes:
        all: Every one of them.
        present: Those that are in memory, come or go, so that a decision looks at no others.
        newest: Newest version of each model.
        hoped: Those that are loaded if there is room, without anybody making it; by priority.
    """

    def __init__(self) -> None:
        self.all: dict[ModelId, Resident] = {}
        self.present: dict[ModelId, Resident] = {}
        self.newest: dict[str, ModelId] = {}
        self.hoped: dict[ModelId, Version] = {}
        self._away: set[ModelId] = set()  # absent or leaving

    def add(self, resident: Resident) -> None:
        """Add a version, or put it in the place of its earlier files."""
        id = resident.manifest.id
        self.all[id] = resident
        self.present.pop(id, None)
        self._away.add(id)
        self.hoped.pop(id, None)
        if resident.manifest.config.memory.residence == "eager":
            self.hoped[id] = resident.version(resident.since)

    def order(self) -> None:
        """Sort the hopes, after versions were added."""
        self.hoped = dict(sorted(self.hoped.items(), key=lambda hope: -hope[1].priority))

    def drop(self, id: ModelId) -> None:
        """Remove a version that is no longer wanted."""
        del self.all[id]
        self.present.pop(id, None)
        self.hoped.pop(id, None)
        self._away.discard(id)

    def move(self, resident: Resident, place: Place, *, is_away: bool = False) -> None:
        """Set the place of a version.

        Args:
            is_away: The lifecycle does not load it yet.
        """
        id = resident.manifest.id
        resident.place = place
        if self.all.get(id) is not resident:
            return  # other files have come meanwhile, or it is no longer wanted
        if place == "absent":
            self.present.pop(id, None)
        else:
            self.present[id] = resident
            self.hoped.pop(id, None)
        if resident.is_up and not is_away:
            self._away.discard(id)
        else:
            self._away.add(id)

    def away(self) -> frozenset[ModelId]:
        """Return the versions that are not to be in memory."""
        return frozenset(self._away)
