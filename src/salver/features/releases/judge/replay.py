"""Recomputation of the decisions in a log from its recorded counts.

The judge is pure, so its log can be recomputed by anyone, at any time. On a machine with a differently
rounding math library the last bit of a float may differ; decisions do not. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.rules import Facts
from salver.features.releases.judge.verdict import Verdict
from salver.words.releases import Bucket, ReleaseState


class Entry(msgspec.Struct, frozen=True):
    """A logged look: the judge's inputs and its verdict."""

    bucket: Bucket
    state: ReleaseState
    verdict: Verdict
    facts: Facts = Facts()


class Step(NamedTuple):
    """A recomputed look."""

    entry: Entry
    evidence: Evidence
    verdict: Verdict

    @property
    def is_same(self) -> bool:
        """Return whether it is equal to the last bit."""
        return _bits(self.verdict) == _bits(self.entry.verdict)

    def differences(self) -> tuple[str, ...]:
        """Return the fields of the verdict that differ."""
        logged, again = msgspec.to_builtins(self.entry.verdict), msgspec.to_builtins(self.verdict)
        return tuple(
            f"{name}: logged {logged[name]!r}, now {again[name]!r}"
            for name in logged
            if _bits(logged[name]) != _bits(again[name])
        )


def replay(policy: Policy, log: Iterable[Entry]) -> Iterator[Step]:
    """Recompute each look of a release, from its first bucket.

    Raises:
        InvalidInput: The log's buckets are not consecutive.
    """
    evidence = start(policy)
    for entry in log:
        evidence, verdict = judge(policy, evidence, entry.bucket, entry.state, entry.facts)
        yield Step(entry, evidence, verdict)


def first_difference(policy: Policy, log: Iterable[Entry]) -> Step | None:
    """Return the first look whose verdict differs; None = all are equal, bit by bit."""
    return next((step for step in replay(policy, log) if not step.is_same), None)


def _bits(value: object) -> bytes:
    return msgspec.msgpack.encode(value)
