"""Look-up of features: every source against a naive join, the cache, time-outs, and what is refused."""

# ruff: noqa: RUF012  # what a suite is given

import http.server
import json
import logging
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

import salver.pipelines
from salver.features.pipelines.lookups.cache import RowCache
from salver.features.pipelines.lookups.parquet import ParquetSource
from salver.features.pipelines.lookups.remote import HttpSource, RedisSource, redis_source
from salver.features.pipelines.lookups.source import Key, Query, SourceFailed, SourceLate, with_secrets
from salver.features.pipelines.lookups.sqlite import SqliteSource
from salver.features.pipelines.steps.look_up import LookUp, LookUpRun
from salver.testing.steps import StepConformance
from salver.words.errors import DeadlineExceeded, InvalidInput, LoadFailed, ModelFailed
from salver.words.messages import NULL

NAMES = ("price", "plan")
#: (key, since when, price, plan)
History = list[tuple[str, float, float, str | None]]


def naive(history: History, key: Key) -> tuple[Any, ...] | None:
    """Return the latest row that is not later, by looking at all of them."""
    known = [row for row in history if row[0] == key.value and row[1] <= key.at]
    return max(known, key=lambda row: row[1])[2:] if known else None


def write_sqlite(path: Path, history: History, table: str = "rows") -> Path:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    quoted = '"' + table.replace('"', '""') + '"'
    connection.execute(f"CREATE TABLE {quoted} (id, since, price, plan, PRIMARY KEY (id, since))")
    connection.executemany(f"INSERT INTO {quoted} VALUES (?, ?, ?, ?)", history)
    connection.commit()
    connection.close()
    return path


def write_parquet(path: Path, history: History) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = ("id", "since", *NAMES)
    columns = [list(column) for column in zip(*history, strict=True)] or [[]] * 4
    parquet.write_table(arrow.table(dict(zip(names, columns, strict=True))), path)
    return path


def redis_of(history: History) -> fakeredis.FakeRedis:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    for key, since, price, plan in history:
        client.zadd(f"c:{key}", {json.dumps({"price": price, "plan": plan, "since": since}): since})
    return client


KEYS = st.sampled_from(["a", "b", "ü'\"; DROP TABLE rows", ""])
MOMENTS = st.integers(-3, 12).map(lambda tenths: tenths / 4)
HISTORIES = st.lists(
    st.tuples(KEYS, MOMENTS, st.floats(-9, 9), st.sampled_from(["x", "y", None])),
    max_size=12,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=25, deadline=None)
@given(HISTORIES, st.lists(st.builds(Key, KEYS, MOMENTS), min_size=1, max_size=20, unique=True))
def test_every_source_gives_the_row_that_was_valid_at_the_time(tmp_path_factory, history, keys):
    folder = tmp_path_factory.mktemp("sources")
    query = Query("id", NAMES, "rows", "since")
    wanted = [naive(history, key) for key in keys]
    assert SqliteSource(write_sqlite(folder / "s.db", history), query).rows(keys, 9) == wanted
    if history:
        assert ParquetSource(write_parquet(folder / "s.parquet", history), query).rows(keys, 9) == wanted
    redis = RedisSource(redis_of(history), Query("id", NAMES, "c:", "since"))
    assert redis.rows(keys, 9) == wanted


class TestLookUp(StepConformance):
    """Rows do not depend on one another, nor on the requests beside them."""

    name = "look-up"
    options = {
        "source": "sqlite:s.db",
        "table": "rows",
        "key": "id",
        "columns": {"price": "number", "plan": "text"},
        "time": "since",
        "missing": "null",
    }
    inputs = {"id": ["a", "b", "a", "z"], "at": [5.0, 5.0, 9.0, 9.0]}
    outputs = {
        "price": [1.0, 3.0, 2.0, np.nan],
        "plan": np.array([b"x", NULL, b"y", NULL], object),
    }

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path, monkeypatch):
        write_sqlite(tmp_path / "s.db", [("a", 0.0, 1.0, "x"), ("a", 6.0, 2.0, "y"), ("b", 5.0, 3.0, None)])
        monkeypatch.setattr(type(self), "folder", tmp_path)


def test_many_keys_take_several_statements(tmp_path, monkeypatch):
    monkeypatch.setattr("salver.features.pipelines.lookups.sqlite._MOST", 2)
    history = [(str(i), 0.0, float(i), "x") for i in range(5)]
    source = SqliteSource(write_sqlite(tmp_path / "s.db", history), Query("id", NAMES, "rows"))
    assert source.rows([Key(str(i)) for i in range(6)], 9) == [(float(i), "x") for i in range(5)] + [None]


def test_times_may_be_texts_with_offsets(tmp_path):
    history = [("a", "2026-01-31 08:00:00", 1.0, "x"), ("a", "2026-01-31T10:00:00+01:00", 2.0, "y")]
    query = Query("id", NAMES, "rows", "since", "iso")
    sources = [SqliteSource(write_sqlite(tmp_path / "s.db", history), query)]
    sources.append(ParquetSource(write_parquet(tmp_path / "s.parquet", history), query))
    eight = 1769846400.0
    for source in sources:
        found = source.rows([Key("a", eight - 1), Key("a", eight), Key("a", eight + 3600)], 9)
        assert found == [None, (1.0, "x"), (2.0, "y")]


def test_without_times_there_is_one_row_for_a_key(tmp_path):
    history = [("a", 0.0, 1.0, "x"), ("7", 0.0, 2.0, None)]
    table = 'odd " name'
    source = SqliteSource(write_sqlite(tmp_path / "s.db", history, table), Query("id", NAMES, table))
    assert source.rows([Key("7"), Key("b"), Key("a")], 9) == [(2.0, None), None, (1.0, "x")]
    client = fakeredis.FakeRedis()
    client.hset("c:a", mapping={"price": "1.5", "plan": "x"})
    redis = RedisSource(client, Query("id", NAMES, "c:"))
    assert redis.rows([Key("b"), Key("a")], 9) == [None, (b"1.5", b"x")]


def test_a_redis_that_is_late_is_asked_once():
    """Retries of time-outs would take longer than the step allows."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with pytest.raises(SourceLate):
            redis_source(address, Query("id", NAMES), 0.1).rows([Key("a")], 0.1)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_answers_are_enriched_by_their_labels(tmp_path):
    connection = sqlite3.connect(tmp_path / "insects.db")
    connection.execute("CREATE TABLE insects (label PRIMARY KEY, latin)")
    connection.executemany(
        "INSERT INTO insects VALUES (?, ?)", [("ant", "Formicidae"), ("bee", "Anthophila")]
    )
    connection.commit()
    connection.close()
    (tmp_path / "pipeline.toml").write_text(
        """
        inputs.scores = "FP32[-1,2]"
        [steps.best]
        use = "arg-max"
        [steps.name]
        use = "labels"
        names = ["ant", "bee"]
        [steps.more]
        use = "look-up"
        source = "sqlite:insects.db"
        table = "insects"
        key = "label"
        timeout_ms = 60000
        columns = { latin = "text" }
        """
    )
    with salver.pipelines.load(tmp_path) as pipeline:
        found = pipeline({"scores": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)})
    assert found["latin"].tolist() == [b"Anthophila", b"Formicidae"]


class Service:
    """HTTP service whose answer is set."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", {}
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.hold = threading.Event()
        self.hold.set()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                service.tokens.append(self.headers["authorization"])
                service.hold.wait(30)
                self.send_response(service.status)
                for name, value in service.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(service.body)

            def log_message(self, *told: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rows"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.hold.set()
    found.server.shutdown()
    found.server.server_close()


def test_a_service_is_asked_once_for_all_keys(service):
    service.body = b'{"rows": [{"price": 2, "plan": "x", "more": 1}, null]}'
    source = HttpSource(service.url, Query("id", NAMES, time="since"), {"authorization": "Bearer xyz"})
    assert source.rows([Key("a", 1.0), Key("b", 2.0)], 30) == [(2, "x"), None]
    assert service.asked == [{"keys": ["a", "b"], "columns": [*NAMES], "at": [1.0, 2.0]}]
    assert service.tokens == ["Bearer xyz"]


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (302, b"", {"location": "http://127.0.0.1:1/elsewhere"}, "status 302"),
        (500, b"the secret", {}, "status 500"),
        (200, b"no", {}, "did not answer"),
        (200, b'{"rows": []}', {}, "a row for each key"),
        (200, b'{"rows": [7]}', {}, "a row that is not an object"),
        (200, b" " * ((16 << 20) + 1), {}, "more than"),
    ],
)
def test_other_answers_of_a_service_are_failures(service, status, body, headers, said):
    service.status, service.body, service.headers = status, body, headers
    with pytest.raises(SourceFailed, match=said) as error:
        HttpSource(service.url, Query("id", NAMES), {}).rows([Key("a")], 30)
    assert "secret" not in str(error.value)


def test_a_service_that_is_slow_is_late(service):
    service.hold.clear()
    with pytest.raises(SourceLate):
        HttpSource(service.url, Query("id", NAMES), {}).rows([Key("a")], 0.05)


def test_a_database_that_is_slow_is_late(tmp_path):
    path = write_sqlite(tmp_path / "s.db", [("a", float(i), 1.0, "x") for i in range(20_000)])
    now = [0.0]
    source = SqliteSource(path, Query("id", NAMES, "rows", "since"), lambda: now[0])
    source._clock = lambda: now.__setitem__(0, now[0] + 2.0) or 0.0  # time passes when it is asked
    with pytest.raises(SourceLate):
        source.rows([Key("a", 1e9)], 1.0)


def test_a_database_that_is_locked_is_late(tmp_path):
    path = write_sqlite(tmp_path / "s.db", [("a", 0.0, 1.0, "x")])
    source = SqliteSource(path, Query("id", NAMES, "rows"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SourceLate):
        source.rows([Key("a")], 0.01)
    other.execute("ROLLBACK")
    assert source.rows([Key("a")], 9) == [(1.0, "x")]


def test_a_database_is_never_written(tmp_path):
    source = SqliteSource(write_sqlite(tmp_path / "s.db", []), Query("id", NAMES, "rows"))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        source._connection.execute("DELETE FROM rows")


class Rows:
    """Source in memory, which notes what it is asked."""

    def __init__(self, rows: dict[str, tuple[Any, ...]]) -> None:
        self.known, self.asked, self.error = rows, [], None
        self.gate = threading.Event()
        self.gate.set()

    def rows(self, keys, seconds):
        self.asked.append([key.value for key in keys])
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return [self.known.get(key.value) for key in keys]


STEP = {"source": "sqlite:s.db", "key": "id", "columns": {"price": "number", "plan": "text"}, "table": "rows"}


def runner(source: Rows, clock=lambda: 0.0, **options: Any) -> LookUpRun:
    step = LookUp(**{**STEP, **options})
    return LookUpRun(step, RowCache(source, step.cache_seconds, step.cache_keys, clock))


def ids(*keys: bytes) -> dict[str, np.ndarray]:
    return {"id": np.array(keys, object)}


def test_keys_of_all_requests_are_asked_for_once():
    source = Rows({"a": (1.0, "x"), "b": (2, None)})
    first, second = runner(source)([ids(b"a", b"b", b"a"), ids(b"b")])
    assert source.asked == [["a", "b"]]
    assert first["price"].tolist() == [1.0, 2.0, 1.0] and first["plan"].tolist() == [b"x", NULL, b"x"]
    assert second["price"].tolist() == [2.0]


def test_a_missing_key_costs_its_own_request():
    source = Rows({"a": (1.0, "x")})
    good, bad, none = runner(source)([ids(b"a"), ids(b"a", b"z"), ids(NULL)])
    assert good["price"].tolist() == [1.0]
    assert isinstance(bad, InvalidInput) and bad.message == "row 1: nothing is known of 'id' 'z'"
    assert isinstance(none, InvalidInput) and none.message == "row 0: 'id' is missing"
    (found,) = runner(source, missing="null")([ids(b"z", NULL, b"\xff")])
    assert np.isnan(found["price"]).all() and found["plan"].tolist() == [NULL] * 3
    (found,) = runner(source, defaults={"price": 7.0})([ids(b"z")])
    assert found["price"].tolist() == [7.0] and found["plan"].tolist() == [NULL]


def test_a_source_without_an_answer(caplog):
    source = Rows({"a": (1.0, "x")})
    run = runner(source, cache_seconds=9)
    run([ids(b"a")])
    source.error = SourceLate("it gave no answer in time")
    with caplog.at_level(logging.WARNING):
        known, unknown = run([ids(b"a"), ids(b"b")])
        run([ids(b"b")])
    assert known["price"].tolist() == [1.0]
    assert isinstance(unknown, DeadlineExceeded)
    assert len(caplog.records) == 1, "a source that fails is logged when it begins to"
    assert run.counts == {"hit": 1, "miss": 3, "absent": 0, "timeout": 2, "failed": 0}
    source.error = SourceFailed("it is broken")
    (found,) = run([ids(b"b")])
    assert isinstance(found, ModelFailed) and run.counts["failed"] == 1
    (found,) = runner(source, late="default", defaults={"price": 7.0})([ids(b"b")])
    assert found["price"].tolist() == [7.0]


def test_a_value_of_another_kind_is_a_failure_of_the_source():
    (found,) = runner(Rows({"a": ("dear", "x")}))([ids(b"a")])
    assert isinstance(found, ModelFailed) and "price" in found.message


def test_rows_live_for_some_seconds_and_are_bounded():
    source, now = Rows({"a": (1.0, "x")}), [0.0]
    run = runner(source, lambda: now[0], cache_seconds=5, cache_keys=2, missing="null")
    for seconds, keys in (
        (0, b"a"),
        (4.9, b"a"),
        (5.0, b"a"),
        (5.1, b"z"),
        (5.2, b"z"),
        (5.3, b"y"),
        (5.4, b"a"),
    ):
        now[0] = seconds
        run([ids(keys)])
    # The knowledge that there is no z is kept as well; y pushed a out.
    assert source.asked == [["a"], ["a"], ["z"], ["y"], ["a"]]
    assert run.counts["hit"] == 2 and run.counts["miss"] == 5


def test_threads_that_miss_at_the_same_time_ask_once():
    source = Rows({"a": (1.0, "x")})
    source.gate.clear()
    run, found = runner(source, cache_seconds=9), []
    threads = [threading.Thread(target=lambda: found.extend(run([ids(b"a")]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: source.asked)
    source.gate.set()
    for thread in threads:
        thread.join()
    assert source.asked == [["a"]] and [each["price"].tolist() for each in found] == [[1.0]] * 4


def test_the_time_of_the_event_is_needed():
    run = runner(Rows({}), time="since", at="when", missing="null")
    (found,) = run([{**ids(b"a"), "when": np.array([np.nan])}])
    assert isinstance(found, InvalidInput) and "row 0: 'when' must be the time of an event" in found.message
    iso = runner(Rows({}), time="since", at="when", times="iso", missing="null")
    (found,) = iso([{**ids(b"a"), "when": np.array([b"soon"], object)}])
    assert isinstance(found, InvalidInput)


def test_integers_are_keys():
    source = Rows({})
    runner(source, key_type="integer", missing="null")([{"id": np.array([3.0, 2.5, np.inf])}])
    assert source.asked == [[3]]


REFUSED = [
    ({"columns": {}}, "must name columns"),
    ({"columns": {"id": "text"}}, "and not the key"),
    ({"defaults": {"price": "dear"}}, "the default of 'price'"),
    ({"defaults": {"other": 1}}, "the default of 'other'"),
    ({"timeout_ms": 0}, "`timeout_ms` must be"),
    ({"source": "ftp://host/x"}, "no source of a known kind"),
    ({"source": "sqlite:"}, "no source of a known kind"),
    ({"table": ""}, "needs `table`"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(LoadFailed, match=said):
        LookUp(**{**STEP, **options}).described(Path())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "sqlite:absent.db"}, "there is no file"),
        ({"table": "absent"}, "no such table: absent"),
        ({"columns": {"absent": "text"}}, "no such column"),
        ({"source": "parquet:s.db"}, "cannot be read"),
        ({"source": "redis://:hunter2@host/0"}, "password in plain text"),
        ({"source": "redis://:${SALVER_ABSENT}@host/0"}, "no variable SALVER_ABSENT"),
    ],
)
def test_sources_that_cannot_be_opened_are_refused_at_load(options, said, tmp_path):
    write_sqlite(tmp_path / "s.db", [])
    with pytest.raises(LoadFailed, match=said) as error:
        LookUp(**{**STEP, **options}).open_many(tmp_path)
    assert "hunter2" not in str(error.value)


def test_credentials_are_in_no_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SALVER_TEST_SECRET", "hunter2")
    for source in (
        "redis://me:${SALVER_TEST_SECRET}@127.0.0.1:1/0",
        "http://me:${SALVER_TEST_SECRET}@127.0.0.1:1/x",
    ):
        run = LookUp(**{**STEP, "source": source}).open_many(tmp_path)
        (found,) = run([ids(b"a")])
        assert isinstance(found, ModelFailed)
        for text in (str(found), repr(run._cache), caplog.text):
            assert "hunter2" not in text
    assert with_secrets("x ${SALVER_TEST_SECRET}") == "x hunter2"


def test_it_runs_in_training_code_beside_other_columns(tmp_path):
    write_sqlite(tmp_path / "s.db", [("a", 0.0, 30.0, "x"), ("a", 10.0, 50.0, "y")])
    (tmp_path / "pipeline.toml").write_text("""
[steps.customer]
use = "look-up"
source = "sqlite:s.db"
table = "rows"
key = "id"
columns = { price = "number" }
time = "since"
[steps.scaled]
use = "scale"
values = { price = [30, 10] }
""")
    with salver.pipelines.load(tmp_path) as pipeline:
        assert [spec.name for spec in pipeline.signature.inputs] == ["id", "at"]
        assert pipeline({"id": ["a", "a"], "at": [9.0, 10.0]})["price"].tolist() == [0.0, 2.0]
