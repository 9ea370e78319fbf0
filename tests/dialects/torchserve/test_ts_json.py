"""Layout of TorchServe's replies."""

import pytest

from salver.dialects.torchserve.json_layout import (
    all_headers,
    handler_reply,
    json_reply,
    status_reply,
    to_json,
)
from salver.words.handlers import HandlerReply


@pytest.mark.clause("TS-R22")
def test_json_stands_a_key_a_line_and_ends_with_a_line_feed() -> None:
    value = {"nextPageToken": "2", "models": [{"modelName": "a"}], "none": [], "empty": {}, "no": None}
    assert json_reply(value).body == (
        b'{\n  "nextPageToken": "2",\n  "models": [\n    {\n      "modelName": "a"\n    }\n  ],\n'
        b'  "none": [],\n  "empty": {},\n  "no": null\n}\n'
    )
    assert json_reply(value).headers == ((b"content-type", b"application/json"),)
    assert status_reply("Healthy").body == b'{\n  "status": "Healthy"\n}\n'
    assert to_json({"health": 1}).endswith(b"\n}")


@pytest.mark.clause("TS-R22")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<b'=&\"€", '"a<b\'=&\\"€"'),
        ("\n\t\b\f\r\x00", '"\\n\\t\\b\\f\\r\\u0000"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("\ud800", '"?"'),
    ],
)
def test_texts_are_escaped_as_its_library_does(text: str, expected: str) -> None:
    assert to_json(text).decode() == expected


def test_what_json_cannot_hold_is_written_all_the_same() -> None:
    assert to_json({"a": [2**70, "\ud800", 1.5, None, True]}) == (
        b'{\n  "a": [\n    "1180591620717411303424",\n    "?",\n    1.5,\n    null,\n    true\n  ]\n}'
    )


@pytest.mark.clause("TS-R16")
def test_every_reply_has_the_standard_headers_in_their_order() -> None:
    cors = ((b"access-control-allow-origin", b"*"),)
    assert all_headers(json_reply({}), b"id", cors) == [
        (b"content-type", b"application/json"),
        (b"x-request-id", b"id"),
        (b"access-control-allow-origin", b"*"),
        (b"pragma", b"no-cache"),
        (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
        (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
    ]


@pytest.mark.clause("TS-R14")
def test_a_prediction_has_the_headers_that_its_handler_set() -> None:
    plain = handler_reply(HandlerReply(b"OK"))
    assert (plain.status, plain.body, plain.headers, plain.reason, plain.is_last) == (
        200,
        b"OK",
        (),
        "",
        True,
    )
    said = HandlerReply(b"", 201, "Made", "image/png", {"X-Gold": "two  words", "content-type": "no"})
    full = handler_reply(said, is_last=False)
    assert full.headers == ((b"content-type", b"image/png"), (b"x-gold", b"two  words"))
    assert (full.status, full.reason, full.is_last) == (201, "Made", False)
    by_header = handler_reply(HandlerReply(headers={"Content-Type": "text/csv"}))
    assert by_header.headers == ((b"content-type", b"text/csv"),)


def test_a_handler_cannot_break_the_frame_of_a_reply() -> None:
    headers = {
        "Content-Length": "9",
        "transfer-encoding": "chunked",
        "Connection": "close",
        "a b": "1",
        "": "2",
        "x\r\ny": "3",
        "X-Split": "one\r\nX-Evil: two\x00",
    }
    reply = handler_reply(HandlerReply(b"", 200, "odd\r\nphrase", headers=headers))
    assert reply.headers == ((b"x-split", b"one  X-Evil: two"),)
    assert reply.reason == "odd  phrase"
