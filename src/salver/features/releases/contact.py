"""Time since a server last read the ledger, and the other servers that are silent."""

import math
from collections.abc import Sequence

from salver.features.releases.experiments.windows import PATIENCE, CountingServer, silent
from salver.features.releases.judge.record import Release


class LedgerContact:
    """Contact of one server with the ledger and, through it, with other servers.

    Args:
        server: Name of this server.

    Attributes:
        told_at: Unix seconds of the last complete report.
        is_lost: The ledger is unavailable.
    """

    def __init__(self, server: str) -> None:
        self.told_at = -math.inf
        self.is_lost = False
        self._server = server
        self._since = -math.inf  # Unix seconds from which others could be heard
        self._silent: set[tuple[str, str]] = set()  # releases and servers of which the operator was told

    def __repr__(self) -> str:
        return f"<LedgerContact of {self._server}>"

    def read(self, asked: float, now: float, shortest: float) -> None:
        """Note a successful read.

        A server that was cut off, or waited longer than the shortest bucket allows, cannot tell who was
        silent meanwhile: all others get time to report.

        Args:
            asked, now: Unix seconds, before and after it.
            shortest: Length of the shortest bucket in seconds.
        """
        if self.is_lost or now - asked > PATIENCE * shortest:
            self.is_lost, self._since = False, now

    def heard(
        self, release: Release, witnesses: Sequence[CountingServer], now: float, *, counts_here: bool
    ) -> tuple[list[CountingServer], list[CountingServer]]:
        """Return the servers that are not silent for long, and those that have just become silent.

        Args:
            counts_here: This server counts the release, so that it need not be heard.
        """
        others = [each for each in witnesses if not (counts_here and each.server == self._server)]
        gone = silent(others, now, release.bucket_seconds, self._since)
        news = [
            each
            for each in gone
            if each.server != self._server and (release.id, each.server) not in self._silent
        ]
        self._silent |= {(release.id, each.server) for each in news}
        heard = [each for each in witnesses if each not in gone]
        self._silent -= {(release.id, each.server) for each in heard}
        return heard, news
