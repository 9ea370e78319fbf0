"""Are the tables of parity whole, and their pages up to date? ``scripts/parity.py`` writes them."""

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
        assert row.id in parity.tests(), f"no test is named test_{row.id.lower().replace('-', '_')}_…"


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
    ("name", "ids"),
    [
        ("test_tr_r12_a_load", ["TR-R12"]),
        ("test_tr_s6_tr_c10_members", ["TR-S6", "TR-C10"]),
        ("test_oip_3", ["OIP-3"]),
        ("test_tf_r8_tf_r31_rows", ["TF-R8", "TF-R31"]),
        ("test_tr_r1", ["TR-R1"]),
        ("test_ts_c3_ts_c4_keys", ["TS-C3", "TS-C4"]),
        ("test_tr_r1x", []),
        ("test_trailers", []),
    ],
)
def test_which_rows_a_name_speaks_of(name: str, ids: list[str]) -> None:
    assert parity.ids_of(name) == ids
