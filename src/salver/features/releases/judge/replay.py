"""Do the decisions of a log follow from what it says was seen, bit by bit?

The judge is pure, so that its log can be computed again, by anyone, on another day. On a machine whose
mathematical library rounds otherwise the last bit of a float may differ; decisions do not. Pure.
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
    """One look, as it was logged: what was put before the judge, and what it said."""

    bucket: Bucket
    state: ReleaseState
    verdict: Verdict
    facts: Facts = Facts()


class Step(NamedTuple):
    """One look, computed again."""

    entry: Entry
    evidence: Evidence
    verdict: Verdict

    @property
    def is_same(self) -> bool:
        """To the last bit."""
        return _bits(self.verdict) == _bits(self.entry.verdict)

    def differences(self) -> tuple[str, ...]:
        """The fields of the verdict in which it is not the same, and how."""
        logged, again = msgspec.to_builtins(self.entry.verdict), msgspec.to_builtins(self.verdict)
        return tuple(
            f"{name}: logged {logged[name]!r}, now {again[name]!r}"
            for name in logged
            if _bits(logged[name]) != _bits(again[name])
        )


def replay(policy: Policy, log: Iterable[Entry]) -> Iterator[Step]:
    """Each look of a release again, from its first bucket on.

    Raises:
        InvalidInput: The log's buckets are none that follow one another.
    """
    evidence = start(policy)
    for entry in log:
        evidence, verdict = judge(policy, evidence, entry.bucket, entry.state, entry.facts)
        yield Step(entry, evidence, verdict)


def first_difference(policy: Policy, log: Iterable[Entry]) -> Step | None:
    """The first look whose verdict does not follow; None = all do, bit by bit."""
    return next((step for step in replay(policy, log) if not step.is_same), None)


def _bits(value: object) -> bytes:
    return msgspec.msgpack.encode(value)
