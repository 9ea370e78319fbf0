"""The server's readiness, by one of three rules.

``serving``: each wanted model has a version that answers; its other versions may be loading or have failed.
``whole``: every wanted version of every model answers, as in TorchServe, TensorFlow Serving and Triton's
strict readiness. ``settled``: ready once the first loads have ended, even if they failed.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from salver.kernel.serving.servable import Servable
from salver.words.errors import SalverError

Rule = Literal["serving", "whole", "settled"]


class Models(Protocol):
    """Wanted and loaded models (lifecycle.manager)."""

    def wanted(self) -> frozenset[str] | None:
        """Names of the wanted models; None = not known yet, or the server is shutting down."""
        ...

    def servables(self) -> Sequence[Servable]:
        """Servables that can answer now, one for each version."""
        ...

    def acquire(self, name: str, version: str = "") -> Any:
        """Return a lease on the version that answers. Raises SalverError if none does."""
        ...

    def ready(self) -> bool:
        """Whether every known model has at least one version, and all chosen versions are loaded."""
        ...


class Places(Protocol):
    """Models without files (serving.controlplane)."""

    @property
    def missing(self) -> frozenset[str]:
        """Models that the operator names and that have no files."""
        ...


class Readiness:
    """The server's readiness by one of the rules.

    By ``serving``, every model counts until the server has been ready once, with the version for requests
    that name none. A model that is added later counts once a version of it has answered, so that loading it
    cannot take a server out of rotation.

    Attributes:
        has_settled: The first loads have ended, successfully or not.
        is_up: All parts have started, and have chosen which versions requests get.
        is_ending: The server accepts no new work and is not ready, whatever the rule.
    """

    def __init__(self, rule: Rule, models: Models, places: Places) -> None:
        self._rule = rule
        self._models = models
        self._places = places
        self._counting: frozenset[str] | None = None  # None = all, because it has not been ready yet
        self.has_settled = False
        self.is_up = False
        self.is_ending = False

    def __repr__(self) -> str:
        return f"<Readiness {self._rule}>"

    async def is_ready(self) -> bool:
        """Return whether the server should get requests now."""
        if self.is_ending or not self.is_up:
            return False
        if self._rule == "serving":
            return await self._is_serving()
        is_whole = self._models.ready() and not self._places.missing
        return (is_whole and await self._are_staffed()) or (self.has_settled and self._rule == "settled")

    async def _is_serving(self) -> bool:
        wanted = self._models.wanted()
        if wanted is None:
            return False
        wanted |= self._places.missing
        servables = self._models.servables()
        running = [servable for servable in servables if not servable.hangs]
        answering = {servable.manifest.id.name for servable in running if await _is_staffed(servable)}
        if self._counting is None:
            is_ready = wanted <= answering and all(map(self._has_default, wanted))
            if is_ready and self.has_settled:  # before that, more models may still be named
                self._counting = wanted
            return is_ready
        self._counting = wanted & (self._counting | answering)
        return self._counting <= answering

    def _has_default(self, name: str) -> bool:
        """Return whether a request without a version is answered; a pinned version may still be loading."""
        try:
            self._models.acquire(name).release()
        except SalverError:
            return False
        return True

    async def _are_staffed(self) -> bool:
        """Return whether each handler that should have workers has one."""
        return all([await _is_staffed(servable) for servable in self._models.servables()])


async def _is_staffed(servable: Servable) -> bool:
    return servable.is_staffed is None or await servable.is_staffed()
