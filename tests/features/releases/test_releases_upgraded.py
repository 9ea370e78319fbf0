"""A release that an older Salver began goes on under this one, with the units that it had met."""

from pathlib import Path

import msgspec
import pytest
from databases import empty_ledger
from releasing import ADA, Clock, Server
from sqlalchemy import Connection, text

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.migrations import migrate
from salver.features.ledger.schema import NEWEST
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Progress
from salver.words.releases import Arm, ReleaseState, unit_number

POLICY = Policy(
    stages=(Stage(0.5, 1000),), metrics=(Metric("errors", "errors", "severe"),), warm_up_seconds=0
)
ROW = """INSERT INTO release (id, model, stable, canary, alias, salt, policy, state, stage, weight, evidence,
 progress, created, "by", changed) VALUES ('r0', 'fraud', '1', '2', '', 'r0', :policy, 'RUNNING', 0, 0.5,
 :evidence, :progress, 1.0, 'ada', 2.0)"""
EXPOSED = """INSERT INTO exposure (release, unit, arm, stage, propensity, time, is_first) VALUES
 ('r0', :unit, :arm, 0, 0.5, 3.0, 1)"""


def begin(connection: Connection, version: int) -> None:
    """As a Salver of that time left it."""
    migrate(connection, version)
    evidence, progress = (msgspec.json.encode(each).decode() for each in (start(POLICY), Progress()))
    row = {"policy": POLICY.to_json().decode(), "evidence": evidence, "progress": progress}
    connection.execute(text(ROW), row)
    connection.execute(text(EXPOSED), {"unit": unit_number("ada"), "arm": Arm.CANARY.value})


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("version", range(2, NEWEST))
async def test_it_goes_on_and_counts_nobody_again(tmp_path: Path, kind: str, version: int) -> None:
    url = empty_ledger(kind, tmp_path)
    engine = engine_of(address_of(url), 5)
    with engine.begin() as connection:
        begin(connection, version)
    engine.dispose()
    clock = Clock()
    async with await Ledger.open(url) as one, await Ledger.open(url) as other:
        servers = [Server(one, clock), Server(other, clock)]
        for _ in range(20):
            clock.now += 1
            for server in servers:
                await server.releases.tick()
            if clock.now % 10 == 1:
                for server in servers:
                    server.serve(["ada", "bob"])
        release = await servers[0].one()
        (first, *_) = await servers[0].store.looks("r0")
        assert release.state is ReleaseState.RUNNING and release.progress.buckets == 2
        assert (first.entry.bucket.requests.total, first.entry.bucket.exposures.total) == (4, 1)
        wish = await servers[0].store.wish("r0", "abort", ADA, "", clock.now)
        await servers[1].releases.tick()
        assert await servers[0].store.answer(wish) == ""
