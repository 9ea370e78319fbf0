"""Tables of parity, their pages and the clauses that tests are marked with (``scripts/parity.py``)."""

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import parity

ROWS = [row for of in parity.SERVERS for row in of.rows()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_held_to_account(row: parity.Row) -> None:
    assert row.status in parity.STATUSES
    assert row.kind in ("C", "O", "A", "G", "C/G", "O/G", "A/G")
    assert row.reason or row.status == "supported", "anything but supported has a reason"
    if row.kind != "G" and row.status in ("supported", "differs"):
        assert row.id in parity.tests(), "no test is marked with it"


def test_every_test_belongs_to_a_row() -> None:
    assert set(parity.tests()) <= {row.id for row in ROWS}


def test_rows_and_cases_are_there_once() -> None:
    ids = [row.id for row in ROWS] + [str(case["id"]) for of in parity.SERVERS for case in of.cases()]
    assert [id for id, count in Counter(ids).items() if count > 1] == []


@pytest.mark.parametrize("of", [of for of in parity.SERVERS if of.recorded_of], ids=lambda of: of.file)
def test_no_group_holds_more_than_was_recorded(of: parity.Parity) -> None:
    hold = Counter(case["group"] for case in of.cases())
    assert set(hold) <= set(of.recorded())
    assert all(hold[group] <= total for group, total in of.recorded().items())


@pytest.mark.parametrize("of", parity.SERVERS, ids=lambda of: of.file)
def test_the_page_is_up_to_date(of: parity.Parity) -> None:
    assert of.path.read_text() == parity.page(of), "run: python scripts/parity.py"


@pytest.mark.parametrize(
    ("decorators", "ids"),
    [
        ('@pytest.mark.clause("TR-R12")', ["TR-R12"]),
        ('@pytest.mark.clause("TR-S6", "TR-C10")\n@pytest.mark.timeout(9)', ["TR-S6", "TR-C10"]),
        ("@pytest.fixture", []),
        ("", []),
    ],
)
def test_which_rows_a_test_is_marked_with(decorators: str, ids: list[str]) -> None:
    function = ast.parse(f"{decorators}\nasync def test_it(): ...").body[0]
    assert isinstance(function, ast.AsyncFunctionDef)
    assert parity.clauses_of(function) == ids


@pytest.mark.parametrize("text", ["(TR-R12)", "UTF-8, SHA-256", "P-1x, A-B2-3", "ISO 8601", "CC-BY-4"])
def test_text_without_an_undefined_clause(text: str) -> None:
    assert list(parity.undefined(text, {"TR-R12"})) == []


def test_a_clause_that_is_defined_nowhere_is_found() -> None:
    ids = [f"X-{27}", f"TR-R{13}"]
    text = "one\n# as {} and ({}) say".format(*ids)
    assert list(parity.undefined(text, {"TR-R12"})) == [(2, id) for id in ids]
