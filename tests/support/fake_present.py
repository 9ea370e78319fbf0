"""Versions and loads that metrics are asked about."""

from collections.abc import Sequence

from salver.kernel.serving.present import Load, LossCounts
from salver.words.messages import Insight, ModelId, State, VersionStatus


class FakePresent:
    def __init__(self, *versions: ModelId) -> None:
        self.versions = list(versions)
        self.dropped = 0
        self.insight: Insight | None = None

    def statuses(self) -> Sequence[VersionStatus]:
        return [VersionStatus(id, State.READY, bytes=1000) for id in self.versions]

    def loads(self) -> Sequence[Load]:
        return [Load(id, 3, 1, 2, self.insight, ("acme", "beta")) for id in self.versions]

    def losses(self) -> LossCounts:
        return LossCounts(self.dropped)

    def cache(self) -> None:
        return None
