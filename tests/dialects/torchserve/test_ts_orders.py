"""Requests to register and scale models, and names of metrics that are asked for."""

import json
from typing import Any

import pytest

from salver.dialects.torchserve.faults import NamedFault
from salver.dialects.torchserve.orders import is_true, read_number, read_registration
from salver.encoding.exposition import chosen
from salver.words.errors import InvalidInput
from salver.words.handlers import Registration

FULL = {
    "url": "a.mar",
    "model_name": "n",
    "handler": "h.py:run",
    "runtime": "python",
    "batch_size": "3",
    "max_batch_delay": "25",
    "initial_workers": "1",
    "synchronous": "false",
    "response_timeout": "33",
    "startup_timeout": "44",
    "s3_sse_kms": "TRUE",
}
WANTED = Registration("a.mar", "n", "h.py:run", "python", 3, 25, 1, False, 33, 44, True)
PLAIN = Registration("a.mar")


@pytest.mark.clause("TS-M1")
def test_a_registration_is_a_query_or_json() -> None:
    assert read_registration(b"", "", FULL) == WANTED
    numbers: dict[str, Any] = {
        name: int(value) if value.isdigit() else value for name, value in FULL.items()
    } | {"synchronous": False, "s3_sse_kms": True}
    for said in (FULL, numbers, {**numbers, "batch_size": 3.0, "more": [1]}):
        assert read_registration(json.dumps(said).encode(), "application/json; charset=utf-8", {}) == WANTED
    assert read_registration(b"", "", {"url": "a.mar"}) == PLAIN
    assert read_registration(b'{"url": "a.mar", "batch_size": null}', "application/json", {}) == PLAIN
    assert read_registration(b"x", "text/plain", {"url": "", "batch_size": "many"}) == Registration("")


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize("content_type", ["", "application/json"])
def test_a_registration_says_where_the_model_is(content_type: str) -> None:
    with pytest.raises(InvalidInput, match=r"^Parameter url is required\.$"):
        read_registration(b"", content_type, {})


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize(
    "body",
    [
        b'{"url": ',
        b"[]",
        b'{"url": []}',
        b'{"url": "a", "batch_size": "many"}',
        b'{"url": "a", "batch_size": 1.5}',
        b'{"url": "a", "batch_size": 99999999999}',
        b'{"url": "a", "synchronous": 1}',
        b'{"url": "a", "batch_size": true}',
    ],
)
def test_broken_json_is_told_by_its_name(body: bytes) -> None:
    with pytest.raises(NamedFault) as caught:
        read_registration(body, "application/json", {})
    assert (caught.value.status, caught.value.kind) == (500, "JsonSyntaxException")


@pytest.mark.clause("TS-M2")
def test_what_is_no_number_counts_as_not_given() -> None:
    given = ("5", "-1", "+2", "many", "", "1.5", None, "9999999999")
    assert [read_number(text, 7) for text in given] == [5, -1, 2, 7, 7, 7, 7, 7]
    assert [is_true(text, False) for text in ("true", "TRUE", "yes", "", None)] == [
        True,
        True,
        False,
        False,
        False,
    ]


PAGE = b"""# HELP a_total An a.
# TYPE a_total counter
a_total{x="y z"} 1.0
# HELP b B.
# TYPE b histogram
b_bucket{le="1"} 1
b_count 1
# HELP c C.
# TYPE c gauge
c 3
"""


@pytest.mark.clause("TS-M11")
def test_names_choose_samples_of_a_page() -> None:
    assert chosen(PAGE, []) == PAGE
    assert chosen(PAGE, ["a_total"]) == PAGE[: PAGE.index(b"# HELP b")]
    assert chosen(PAGE, ["b_count", "c"]) == (
        b"# HELP b B.\n# TYPE b histogram\nb_count 1\n# HELP c C.\n# TYPE c gauge\nc 3\n"
    )
    assert chosen(PAGE, ["nothing"]) == b""
