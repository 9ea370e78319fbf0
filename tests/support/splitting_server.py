"""A server that splits requests although it has no registry; tests put the splits in force themselves."""

from salver.app import Server
from salver.kernel.serving.stages import Stage


class SplittingServer(Server):
    """Has the releases' stage, ``splits``."""

    def _stage(self) -> Stage | None:
        return self.splits
