"""Memory that versions have taken, and that their frameworks take once for all, learned from loads."""

from typing import Final

from salver.features.memory.estimates import (
    Framework,
    Need,
    estimate,
    framework_of,
    learned,
    scaled,
)
from salver.features.memory.states import Resident, Residents
from salver.words.artifacts import Manifest

_MOST: Final = 1 << 16


class Learning:
    """Needs of versions, kept for the next time that their files are served.

    Attributes:
        imported: Bytes of the server's own process without versions.
    """

    def __init__(self, residents: Residents) -> None:
        self.imported = 0
        self._residents = residents
        self._frameworks: set[Framework] = set()  # those that have been imported
        self._needs: dict[str, tuple[Need, float]] = {}  # by fingerprint: need, seconds of a load
        self._last: dict[str, Resident] = {}  # by model: its version that was measured last

    def __repr__(self) -> str:
        return f"<Learning of {len(self._needs)} versions>"

    def record(self, manifest: Manifest, now: float) -> Resident:
        """Return the record of a version that is not in memory, with what it is expected to need."""
        need, seconds = self._needs.get(manifest.fingerprint, (None, 1.0))
        usual = estimate(manifest, framework_of(manifest) in self._frameworks)
        if earlier := self.last(manifest):
            usual = scaled(usual, earlier.need, manifest.bytes / max(1, earlier.manifest.bytes))
        resident = Resident(manifest, need or usual, now)
        if earlier:
            resident.activations = earlier.activations
            resident.is_scaled = True
        resident.is_measured, resident.reload_s = need is not None, seconds
        return resident

    def last(self, manifest: Manifest) -> Resident | None:
        """Return the version of the same model that was measured last."""
        return self._last.get(manifest.id.name)

    def loaded(self, resident: Resident, growth: Need | None) -> None:
        """Learn what a version takes from the growth by its load; None = that is not its own, or known.

        The first load of a framework also imports it. That memory stays when the version goes, so it counts
        with the server; that of a fork server is measured.
        """
        usual = estimate(resident.manifest, has_framework=True)
        if (framework := framework_of(resident.manifest)) not in self._frameworks:
            self._frameworks.add(framework)
            self._estimate_again(framework)
            grew = growth or estimate(resident.manifest, has_framework=False)
            if grew.resident > usual.resident and not resident.is_hosted:
                self.imported += grew.resident - usual.resident
                resident.need = usual
                return
        if growth is not None and growth.resident > 0:
            resident.need = learned(*growth)
            resident.is_measured = True
        if resident.is_measured:
            self._needs[resident.manifest.fingerprint] = (resident.need, resident.reload_s)
            if len(self._needs) > _MOST:
                del self._needs[next(iter(self._needs))]
            self.measured(resident)

    def measured(self, resident: Resident) -> None:
        """Keep a version for later ones of its model."""
        self._last[resident.manifest.id.name] = resident
        if len(self._last) > _MOST:
            del self._last[next(iter(self._last))]

    def _estimate_again(self, framework: Framework) -> None:
        """Estimate the versions that a framework was counted with, which is there now."""
        found = self._residents
        for id, each in found.all.items():
            if each.place == "absent" and not each.is_measured and framework_of(each.manifest) == framework:
                each.need = estimate(each.manifest, has_framework=True)
                if id in found.hoped:
                    found.hoped[id] = each.version(each.since)
