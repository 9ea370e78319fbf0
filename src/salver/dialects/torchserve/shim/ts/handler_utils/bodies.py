"""Bodies of requests, under either name of their part."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def body_of(row: Mapping[str, Any]) -> Any:
    """Return ``data`` of a request, or else ``body``; None = neither."""
    return row.get("data") or row.get("body")


def json_of(row: Mapping[str, Any]) -> Any:
    """Return the body of a request, parsed as JSON unless it has been parsed already.

    >>> json_of({"body": b'{"instances": []}'}), json_of({"data": {"instances": []}})
    ({'instances': []}, {'instances': []})
    """
    body = body_of(row)
    return json.loads(body.decode()) if isinstance(body, bytes | bytearray) else body


def only_body(requests: Sequence[Mapping[str, Any]]) -> Any:
    """Return the body of the only request, with bytes decoded to text.

    Raises:
        ValueError: there are several requests.
    """
    if len(requests) != 1:
        raise ValueError("Expecting batch_size = 1")
    body = body_of(requests[0])
    return body.decode("utf-8") if isinstance(body, bytes | bytearray) else body
