"""What has a request brought, whichever of the two names its part has?"""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def body_of(row: Mapping[str, Any]) -> Any:
    """Of a request: ``data``, else ``body``; None = it has neither."""
    return row.get("data") or row.get("body")


def json_of(row: Mapping[str, Any]) -> Any:
    """The same, read as JSON where nobody has done so yet.

    >>> json_of({"body": b'{"instances": []}'}), json_of({"data": {"instances": []}})
    ({'instances': []}, {'instances': []})
    """
    body = body_of(row)
    return json.loads(body.decode()) if isinstance(body, bytes | bytearray) else body


def only_body(requests: Sequence[Mapping[str, Any]]) -> Any:
    """Of the only request, its bytes as text.

    Raises:
        ValueError: there are several.
    """
    if len(requests) != 1:
        raise ValueError("Expecting batch_size = 1")
    body = body_of(requests[0])
    return body.decode("utf-8") if isinstance(body, bytes | bytearray) else body
