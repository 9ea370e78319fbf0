"""Look-up and columns in a pipeline on a real server: forms of tables, errors of rows, metrics."""

import io
import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from salver.testing.process import ServerProcess

BILLS = """
[steps]
bills = { use = "look-up", source = "sqlite:bills.db", table = "bills", key = "id", columns = { bill = "number", plan = "text" }, time = "since", times = "iso", timeout_ms = 5000, cache_seconds = 600 }
filled = { use = "impute", values = { age = 40 } }
coded = { use = "one-hot", values = { plan = ["gold", "basic"] } }
row = { use = "matrix", columns = ["age", "bill", "plan"] }
[outputs]
row = "row"
plan = "bills.plan"
"""  # noqa: E501  # one line for each step, as in the guide


AWAY = """
[steps.bills]
use = "look-up"
source = "http://127.0.0.1:{port}/rows"
key = "id"
columns = {{ bill = "number" }}
timeout_ms = 4000
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "bills").mkdir()
    (folder / "bills" / "pipeline.toml").write_text(BILLS)
    database = sqlite3.connect(folder / "bills" / "bills.db")
    database.execute("CREATE TABLE bills (id, since, bill, plan)")
    rows = [("a", "2026-01-01", 10.0, "basic"), ("a", "2026-02-01", 20.0, "gold")]
    database.executemany("INSERT INTO bills VALUES (?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name, port in (("silent", silent.getsockname()[1]), ("closed", closed.getsockname()[1])):
            (folder / name).mkdir()
            (folder / name / "pipeline.toml").write_text(AWAY.format(port=port))
        yield from served(folder)


def served(folder: Path) -> Iterator[httpx.Client]:
    with ServerProcess([folder], Path(f"{folder}.log")) as running:
        yield httpx.Client(base_url=running.wait_ready().url, timeout=60)


def asked(client: httpx.Client, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/models/bills", content=content, headers={"content-type": kind})
    return answer.status_code, answer.json()


ROWS = [{"id": "a", "at": "2026-01-20", "age": 30}, {"id": "a", "at": "2026-02-01T00:00:00Z", "age": None}]
WANTED = [{"row": [30, 10, 0, 1], "plan": "basic"}, {"row": [40, 20, 1, 0], "plan": "gold"}]


def test_rows_by_column_name_get_the_features_of_their_time(client: httpx.Client) -> None:
    frame, stream = pd.DataFrame(ROWS), io.BytesIO()
    frame.to_parquet(stream, index=False)
    forms: list[tuple[Any, str]] = [
        ({"inputs": ROWS}, "application/json"),
        ({"dataframe_records": ROWS}, "application/json"),
        (frame.to_csv(index=False).encode(), "text/csv"),
        (stream.getvalue(), "application/vnd.apache.parquet"),
    ]
    for body, kind in forms:
        assert asked(client, body, kind) == (200, {"predictions": WANTED})


def test_an_unknown_key_is_an_error_of_its_request(client: httpx.Client) -> None:
    status, told = asked(client, {"inputs": [{**ROWS[0], "at": "2025-01-01"}]})
    assert (status, told["error"].split(":")[-1]) == (400, " nothing is known of 'id' 'a' at that time")
    status, told = asked(client, {"inputs": [{"id": "a", "age": 1}]})
    assert status == 400 and "has no column 'at' (date)" in told["error"]


def test_a_source_that_is_away_fails_its_requests(client: httpx.Client) -> None:
    answer = client.post("/v1/models/closed", json={"inputs": [{"id": "a"}]})
    assert answer.status_code == 500
    assert "look-up of 'id': the service cannot be asked (ConnectionRefusedError)" in answer.json()["error"]


def test_a_request_ends_at_its_own_deadline(client: httpx.Client) -> None:
    """The source may take four seconds; its answer could only say that it gave none."""
    asked = {"name": "id", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    answer = client.post(
        "/v2/models/silent/infer", json={"inputs": [asked], "parameters": {"timeout": 100_000}}
    )
    assert answer.status_code == 503 and "expired" in answer.json()["error"]


def test_keys_are_counted_by_outcome(client: httpx.Client) -> None:
    asked(client, {"inputs": ROWS})
    page = client.get("/metrics").text
    found = re.findall(
        r'salver_pipeline_look_ups_total{model="bills",outcome="(\w+)",step="bills",.*} (\S+)', page
    )
    counts = {outcome: float(count) for outcome, count in found}
    assert counts["hit"] >= 2 and counts["miss"] >= 2 and counts["timeout"] == 0
