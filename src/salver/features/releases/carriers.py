"""Units, servers and blocks of time that carry the evidence of a release.

Read from the ledger for people: units by their stored numbers, never by their names. Nothing is judged here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select

from salver.features.ledger.schema import BUCKET, FAILING_UNIT
from salver.features.releases.judge.record import Release
from salver.features.releases.window_exchange import read_bucket
from salver.words.releases import BLOCK_BUCKETS, Arm, Bucket, Counts, plus

_MOST_UNITS, _MOST_BLOCKS, _MOST_SERVERS = 5, 3, 3
#: Buckets whose blocks of time are searched, an hour by default.
_RECENT: Final = 360


class FailingUnit(msgspec.Struct, frozen=True):
    """A unit with the event.

    Attributes:
        unit: Its number (:func:`salver.words.releases.unit_number`), as 16 hexadecimal digits.
        blocks: Blocks of time of this stage in which it had the event.
    """

    unit: str
    arm: Arm
    blocks: int


class FailingBlock(msgspec.Struct, frozen=True):
    """A block of time.

    Attributes:
        since: Unix seconds.
        units: Units with the event in it.
    """

    since: float
    units: Counts


class FailingServer(msgspec.Struct, frozen=True):
    """Process of the canary on one of several servers.

    Attributes:
        requests, failed: Requests to it, and those with the event.
    """

    server: str
    requests: int
    failed: int


class Carrier(msgspec.Struct, frozen=True):
    """Units, servers and blocks of time behind the evidence of a metric.

    Attributes:
        seconds: Length of a block of time.
        units: Units with the event in this stage.
        most: Those of the canary with the most blocks.
        blocks: Blocks of the last hour in which the most units of the canary had it.
        servers: Servers of which the canary had the most of it in the last hour; empty = there is only one.
    """

    metric: str
    seconds: float
    units: Counts
    most: tuple[FailingUnit, ...]
    blocks: tuple[FailingBlock, ...]
    servers: tuple[FailingServer, ...] = ()


def carriers(connection: Connection, release: Release) -> tuple[Carrier, ...]:
    """Return the carriers of each metric of the policy that the canary has had in its stage."""
    mine = (FAILING_UNIT.c.release == release.id, FAILING_UNIT.c.stage == release.stand[0])
    columns = FAILING_UNIT.c.metric, FAILING_UNIT.c.arm
    units: dict[str, dict[str, int]] = {}
    for metric, arm, count in connection.execute(
        select(*columns, func.count()).where(*mine).group_by(*columns)
    ):
        units.setdefault(metric, {})[arm] = count
    first = release.progress.buckets - _RECENT
    recent = select(BUCKET.c.body).where(BUCKET.c.release == release.id, BUCKET.c.seq >= first)
    buckets = [read_bucket(body) for body in connection.scalars(recent.order_by(BUCKET.c.seq))]
    seconds = BLOCK_BUCKETS * release.policy.bucket_seconds
    found = []
    for name in (metric.name for metric in release.policy.metrics):
        if units.get(name, {}).get(Arm.CANARY):
            often = (
                select(FAILING_UNIT.c.unit, FAILING_UNIT.c.blocks)
                .where(*mine, FAILING_UNIT.c.metric == name, FAILING_UNIT.c.arm == Arm.CANARY.value)
                .order_by(FAILING_UNIT.c.blocks.desc(), FAILING_UNIT.c.unit)
                .limit(_MOST_UNITS)
            )
            most = [
                FailingUnit(f"{unit & 0xFFFFFFFFFFFFFFFF:016x}", Arm.CANARY, blocks)
                for unit, blocks in connection.execute(often)
            ]
            blocks = tuple(_worst(buckets, name, seconds))
            servers = tuple(_of_servers(buckets, name))
            found.append(Carrier(name, seconds, Counts(**units[name]), tuple(most), blocks, servers))
    return tuple(found)


def told(carrier: Carrier, moment: Callable[[float], str]) -> Iterator[str]:
    """Describe a carrier.

    Args:
        moment: Formats Unix seconds.
    """
    canary, control = carrier.units.canary, carrier.units.control
    yield f"{carrier.metric} in this stage: {canary:,} units of the canary, {control:,} of its control"
    most = ", ".join(f"{each.unit} ({each.blocks})" for each in carrier.most)
    yield f"  units with the most blocks of {carrier.seconds:g} s: {most}"
    blocks = ", ".join(
        f"{moment(each.since)} ({each.units.canary:,} and {each.units.control:,} of the control)"
        for each in carrier.blocks
    )
    if blocks:
        yield f"  blocks with the most units of the canary: {blocks}"
    servers = ", ".join(
        f"{each.server} ({each.failed:,} of {each.requests:,} requests)" for each in carrier.servers
    )
    if servers:
        yield f"  servers whose canary had it most often: {servers}"


def _worst(buckets: Iterable[Bucket], metric: str, seconds: float) -> Iterator[FailingBlock]:
    """Return the blocks of time in which the most units of the canary had the event."""
    found: dict[float, Counts] = {}
    for bucket in buckets:
        since = bucket.start // seconds * seconds
        for counts in bucket.blocks.get(metric, ()):
            found[since] = plus(found.get(since, Counts()), counts)
    worst = sorted(found, key=lambda since: (-found[since].canary, since))[:_MOST_BLOCKS]
    return (FailingBlock(since, found[since]) for since in sorted(worst) if found[since].canary)


def _of_servers(buckets: Iterable[Bucket], metric: str) -> Iterator[FailingServer]:
    """Return the servers of which the canary had the most events."""
    found: dict[str, tuple[int, int]] = {}
    for bucket in buckets:
        for part in bucket.parts:
            requests, failed = found.get(part.server, (0, 0))
            more = part.metrics[metric].raw.canary if metric in part.metrics else 0
            found[part.server] = requests + part.requests.canary, failed + more
    worst = sorted(found, key=lambda server: (-found[server][1], server))[:_MOST_SERVERS]
    return (FailingServer(server, *found[server]) for server in worst if found[server][1])
