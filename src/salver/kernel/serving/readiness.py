"""The server's readiness, by one of three rules.

``serving``: each model that has to serve has a version that answers; versions beside it may load or fail.
``whole``: every wanted version of every model answers, as TorchServe, TensorFlow Serving and Triton's strict
readiness have it. ``settled``: ready from the end of the first loads on, whatever came of them.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from salver.kernel.serving.servable import Servable
from salver.words.errors import SalverError

Rule = Literal["serving", "whole", "settled"]


class Models(Protocol):
    """Knows what is wanted and what answers (lifecycle.manager)."""

    def wanted(self) -> frozenset[str] | None:
        """Names of the models that should be served; None = nobody has said yet, or the server ends."""
        ...

    def servables(self) -> Sequence[Servable]:
        """What can answer now, one for each version."""
        ...

    def acquire(self, name: str, version: str = "") -> Any:
        """Return a lease on the version that answers; raises SalverError where none does."""
        ...

    def ready(self) -> bool:
        """True when every known model has all its chosen versions loaded, and at least one."""
        ...


class Places(Protocol):
    """Knows which models have no files (serving.controlplane)."""

    @property
    def missing(self) -> frozenset[str]:
        """Models that the operator names, and of which nothing lies where he says."""
        ...


class Readiness:
    """The server's readiness by one of the rules.

    By ``serving``, every model counts until the server has been ready once, with the version that requests
    mean which name none. One that is added later counts from its first version that answers, so that loading
    it, or failing to, takes no server out of rotation.

    Attributes:
        has_settled: The first loads have ended, well or not.
        is_ending: The server takes no new work, and is not ready whatever the rule says.
    """

    def __init__(self, rule: Rule, models: Models, places: Places) -> None:
        self._rule = rule
        self._models = models
        self._places = places
        self._counting: frozenset[str] | None = None  # None = all, since it has not been ready yet
        self.has_settled = False
        self.is_ending = False

    def __repr__(self) -> str:
        return f"<Readiness {self._rule}>"

    async def is_ready(self) -> bool:
        """Return whether the server should get requests now."""
        if self.is_ending:
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
            if is_ready and self.has_settled:  # what is wanted was not all named before
                self._counting = wanted
            return is_ready
        self._counting = wanted & (self._counting | answering)
        return self._counting <= answering

    def _has_default(self, name: str) -> bool:
        """Return whether a request that names no version is answered; a pin may mean one that still loads."""
        try:
            self._models.acquire(name).release()
        except SalverError:
            return False
        return True

    async def _are_staffed(self) -> bool:
        """Return whether each handler has a worker, where it is to have some."""
        return all([await _is_staffed(servable) for servable in self._models.servables()])


async def _is_staffed(servable: Servable) -> bool:
    return servable.is_staffed is None or await servable.is_staffed()
