"""Two servers of one ledger that carry a release together."""

import itertools
from typing import NamedTuple

from sqlalchemy import Connection, func, select
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import FIRST_EVENT
from salver.features.registry.records import Actor
from salver.features.releases.distinct_units import met
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState

#: Half-second windows, and gates that some thousand requests pass.
POLICY = Policy(
    stages=(Stage(0.2, 0.05, margin_times=10), Stage(0.5, 0.05, margin_times=10)),
    metrics=(Metric("errors", "errors", "severe", negligible=0.001),),
    warm_up_seconds=1.0,
    bucket_seconds=0.5,
)
USERS = 20_000


class Replicas(NamedTuple):
    servers: tuple[ServerProcess, ServerProcess]
    store: ReleaseStore
    ledger: Ledger


async def begin(replicas: Replicas, policy: Policy = POLICY) -> None:
    """Version 2 is released, and some of it is to be met everywhere."""
    await replicas.store.propose(proposed("r1", "digits", ("1", "2"), policy, 1.0), Actor("ada"))
    await auntil(lambda: in_state(replicas, ReleaseState.RUNNING))


async def in_state(replicas: Replicas, *states: ReleaseState) -> Release | None:
    release = await replicas.store.get("r1")
    return release if release.state in states else None


async def check_counts(replicas: Replicas, asked: int) -> None:
    """Every unit counted once, wherever it was met, and every verdict follows from the log."""
    release = await replicas.store.get("r1")
    looks = await replicas.store.looks("r1")
    assert all(step.is_same for step in replay(release.policy, [look.entry for look in looks]))
    buckets = [look.entry.bucket for look in looks]

    def read(connection: Connection) -> tuple[list[int], int]:
        events = connection.scalar(select(func.count()).select_from(FIRST_EVENT))
        return met(connection, "r1").units.tolist(), int(events or 0)

    told, events = await replicas.ledger.read(read)
    units = len(set(told))
    assert units == len(told)
    counted = sum(bucket.exposures.total for bucket in buckets)
    failed = sum(counts.total for bucket in buckets for counts in bucket.events.values())
    assert 0 <= units - counted <= units / 5  # what came with the last bucket of all was told, and not judged
    assert failed <= events
    assert asked / 4 < sum(bucket.requests.total for bucket in buckets) <= asked
    for last, following in itertools.pairwise(buckets):
        assert last.start < following.start and last.start + last.seconds < following.start + 0.001
