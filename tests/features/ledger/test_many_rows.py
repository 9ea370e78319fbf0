"""Very many rows at once, of which some are there already; on both databases."""

import math

import pytest
from databases import migrated_ledger
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, insert, select

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.migrations import migrate
from salver.features.ledger.rows import add
from salver.features.ledger.schema import EXPOSURE, FIRST_EVENT, RELEASE

RELEASE_ROW = {
    "id": "r1", "model": "m", "stable": "1", "canary": "2", "alias": "champion", "salt": "s", "policy": "{}",
    "state": "RUNNING", "evidence": "{}", "progress": "{}", "created": 1.0, "by": "ann", "changed": 1.0,
}  # fmt: skip
SAME = {"release": "r1", "stage": 2, "propensity": 0.1 + 0.2}


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = engine_of(address_of(migrated_ledger(request.param, tmp_path_factory.mktemp("ledger"))), 30)
    with engine.begin() as connection:
        migrate(connection)
        connection.execute(insert(RELEASE), RELEASE_ROW)
    return engine


def exposed(units: list[int], at: float = 1.5) -> dict[str, object]:
    return SAME | {"unit": units, "arm": ["canary"] * len(units), "time": [at] * len(units), "is_first": 1}


@settings(max_examples=25)
@given(batches=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9)), max_size=5))
def test_each_is_there_once_and_how_many_were_new_is_told(engine: Engine, batches: list[list[int]]) -> None:
    known: set[int] = set()
    with engine.connect() as connection, connection.begin() as transaction:
        for units in batches:
            assert add(connection, EXPOSURE, exposed(units)) == len({*units} - known)
            known |= {*units}
            assert set(connection.scalars(select(EXPOSURE.c.unit))) == known
        transaction.rollback()


def test_numbers_and_text_come_back_bit_by_bit(engine: Engine) -> None:
    times = [0.1 + 0.2, math.nextafter(1.7e9, 0), 1.7e9]
    words = ["canary", "Zürich 🚀 ' \" \\ %s :x {,}", ""]
    with engine.connect() as connection, connection.begin() as transaction:
        columns = {"unit": [1, 2, 3], "arm": words, "time": times, "is_first": [1, 0, 1]}
        assert add(connection, EXPOSURE, {**columns, **SAME}) == 3
        rows = connection.execute(select(EXPOSURE).order_by(EXPOSURE.c.unit)).mappings().all()
        assert [row["time"] for row in rows] == times
        assert [row["arm"] for row in rows] == words
        assert [row["is_first"] for row in rows] == [1, 0, 1]
        assert {(row["release"], row["stage"], row["propensity"]) for row in rows} == {("r1", 2, 0.1 + 0.2)}
        transaction.rollback()


def test_what_was_there_stays_as_it_was(engine: Engine) -> None:
    def rows(connection: Connection) -> list[tuple[str, int, str]]:
        query = select(FIRST_EVENT.c.metric, FIRST_EVENT.c.unit, FIRST_EVENT.c.arm).order_by(
            FIRST_EVENT.c.unit
        )
        return [tuple(row) for row in connection.execute(query)]

    with engine.connect() as connection, connection.begin() as transaction:
        happened = {"release": "r1", "metric": "errors", "time": 1.0}
        assert add(connection, FIRST_EVENT, happened | {"unit": [7], "arm": ["canary"]}) == 1
        assert add(connection, FIRST_EVENT, happened | {"unit": [7, 8], "arm": ["stable"] * 2}) == 1
        assert rows(connection) == [("errors", 7, "canary"), ("errors", 8, "stable")]
        assert add(connection, FIRST_EVENT, happened | {"unit": [], "arm": []}) == 0
        transaction.rollback()
