"""Units that several servers meet are each told once; on both databases."""

import numpy as np
import pytest
from databases import migrated_ledger
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, insert

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.migrations import migrate
from salver.features.ledger.schema import RELEASE
from salver.features.releases.distinct_units import NO_UNITS, meet, met
from salver.words.releases import NO_STAGE

ROW = {
    "model": "m", "stable": "1", "canary": "2", "alias": "", "salt": "s", "state": "RUNNING", "created": 1.0,
    "by": "ann", "changed": 1.0,
}  # fmt: skip
UNITS = st.lists(st.integers(0, 20) | st.integers(-(2**63), 2**63 - 1), unique=True, max_size=12)


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = engine_of(address_of(migrated_ledger(request.param, tmp_path_factory.mktemp("ledger"))), 30)
    with engine.begin() as connection:
        migrate(connection)
        connection.execute(insert(RELEASE), [{"id": id, **ROW} for id in ("r1", "r2")])
    return engine


class Server:
    """As the collector and the shell do it: a unit is new, waits, is told, and only then are others heard."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.waiting: list[tuple[int, list[int]]] = [(0, [])]
        self.heard = 0

    def see(self, units: list[int]) -> None:
        new = [unit for unit in units if unit not in self.known]
        self.known |= {*new}
        self.waiting[-1][1].extend(new)

    def tell(self, connection: Connection, *, keeps: int) -> list[int]:
        """But for the last so many buckets, of which one is open."""
        told = []
        due = len(self.waiting) - keeps
        for after, units in self.waiting[: max(due, 0)]:
            some = {stage: np.array(units, np.int64) for stage in (NO_STAGE, 2)}
            are_new, others = meet(connection, "r1", some, after, self.heard)
            assert are_new[2].tolist() == are_new[NO_STAGE].tolist()
            told += some[NO_STAGE][are_new[NO_STAGE]].tolist()
            self.known |= {*others.units.tolist()}
            self.heard = others.last
        self.waiting = self.waiting[max(due, 0) :]
        self.waiting.append((self.heard, []))
        return told


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), UNITS, st.booleans(), st.integers(0, 2)), max_size=14))
def test_each_unit_is_told_once_whoever_meets_it_and_however_long_it_waits(
    engine: Engine, story: list[tuple[int, list[int], bool, int]]
) -> None:
    servers = [Server(), Server(), Server()]
    told: list[int] = []
    with engine.connect() as connection, connection.begin() as transaction:
        meet(connection, "r2", {NO_STAGE: np.arange(5), 1: np.arange(7)}, 0, 0)
        meet(connection, "r1", {1: np.arange(9)}, 0, 0)
        for number, units, tells, keeps in story:
            servers[number].see(units)
            if tells:
                told += servers[number].tell(connection, keeps=keeps)
        for server in servers:
            told += server.tell(connection, keeps=0)
        everybody = {unit for _, units, _, _ in story for unit in units}
        assert sorted(told) == sorted(everybody)
        for stage in (NO_STAGE, 2):  # whoever was met in another one
            stored = met(connection, "r1").by_stage.get(stage, NO_UNITS)
            assert sorted(stored.tolist()) == sorted(everybody)
        for server in servers:  # what it does not know, it has still to read
            assert server.known | {*met(connection, "r1", server.heard).units.tolist()} == everybody
        transaction.rollback()


def test_nobody_was_met_of_a_release_that_nobody_tells_of(engine: Engine) -> None:
    with engine.connect() as connection:
        assert met(connection, "r0") == ({}, 0)
        are_new, others = meet(connection, "r0", {NO_STAGE: NO_UNITS}, 3, 7)
        assert (len(are_new[NO_STAGE]), len(others.units), others.last) == (0, 0, 7)
