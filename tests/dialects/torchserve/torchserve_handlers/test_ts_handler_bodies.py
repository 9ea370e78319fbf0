"""Bodies of requests, under either name."""

from typing import Any

import pytest
from ts.handler_utils.bodies import body_of, json_of, only_body

JSON = {"instances": [1]}
ROWS: list[tuple[dict[str, Any], Any]] = [
    ({"body": b"x"}, b"x"),
    ({"data": b"x"}, b"x"),
    ({"data": b"x", "body": b"y"}, b"x"),
    ({"data": b"", "body": b"y"}, b"y"),
    ({"body": JSON}, JSON),
    ({"other": 1}, None),
]


@pytest.mark.clause("TS-A3")
@pytest.mark.parametrize(("row", "body"), ROWS)
def test_data_goes_before_body(row: dict[str, Any], body: Any) -> None:
    assert body_of(row) == body


@pytest.mark.clause("TS-R6", "TS-R7")
@pytest.mark.parametrize("body", [JSON, b'{"instances": [1]}', bytearray(b'{"instances": [1]}')])
def test_json_is_read_where_nobody_has_done_so(body: Any) -> None:
    assert json_of({"body": body}) == JSON


@pytest.mark.clause("TS-A5")
@pytest.mark.parametrize("body", [b"gr\xc3\xbcn", bytearray(b"gr\xc3\xbcn"), "gr\u00fcn"])
def test_the_only_body_is_text(body: Any) -> None:
    assert only_body([{"data": body}]) == "grün"
    assert only_body([{"body": JSON}]) == JSON
    for requests in ([], [{"body": b"a"}] * 2):
        with pytest.raises(ValueError, match="batch_size = 1"):
            only_body(requests)
