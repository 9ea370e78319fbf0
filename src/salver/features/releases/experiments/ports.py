"""Protocols that the experiments call."""

from typing import Protocol

from salver.words.releases import BucketObservations


class Sink(Protocol):
    """Receiver of finished buckets, which are stored in one transaction each."""

    def write(self, seen: BucketObservations) -> None:
        """Accept a bucket and return immediately; buckets of a release arrive in order. Must not raise."""
        ...
