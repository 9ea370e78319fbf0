"""Forms and replies survive the trip as requests and answers, whatever they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.words import handlers
from salver.words.handlers import Form, HandlerReply, part

_TEXT = st.text(max_size=12)
_FORMS = st.builds(
    lambda parts, headers: Form(tuple(part(n, d, t) for n, (d, t) in parts.items()), headers),
    st.dictionaries(_TEXT, st.tuples(st.binary(max_size=40), _TEXT), max_size=4),
    st.dictionaries(_TEXT, _TEXT, max_size=4),
)
_REPLIES = st.builds(
    HandlerReply,
    st.binary(max_size=40),
    st.integers(0, 999),
    _TEXT,
    _TEXT,
    st.dictionaries(_TEXT, _TEXT, max_size=3),
    st.booleans(),
    st.lists(_TEXT, max_size=3).map(tuple),
)


def _told(form: Form) -> tuple[list[tuple[str, bytes, str]], dict[str, str]]:
    return [(p.name, p.data.tobytes(), p.content_type) for p in form.parts], dict(form.headers)


@given(_FORMS)
def test_a_form_comes_back_from_its_request(form: Form) -> None:
    request = handlers.as_request("m", form)
    assert handlers.is_form(request)
    assert _told(handlers.form_of(request)) == _told(form)


@given(_REPLIES)
def test_a_reply_comes_back_from_its_answer(reply: HandlerReply) -> None:
    outputs, parameters = handlers.as_answer(reply)
    assert handlers.reply_of(outputs[handlers.BODY], parameters) == reply


def test_a_plain_reply_says_nothing_beside_its_bytes() -> None:
    assert handlers.as_answer(HandlerReply(b"OK"))[1] == {}


def test_a_request_of_a_sequence_says_so_as_tritons_do() -> None:
    request = handlers.as_request("m", Form((part("body", b"1"),)), "1.0", ("s", True, False))
    assert {key: request.parameters[key] for key in handlers.SEQUENCE} == {
        "sequence_id": "s",
        "sequence_start": True,
        "sequence_end": False,
    }


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b", b""]])
def test_pieces_are_joined_with_the_first_ones_status(pieces: list[bytes]) -> None:
    replies = [HandlerReply(piece, 200 + index) for index, piece in enumerate(pieces)]
    assert handlers.joined(replies) == HandlerReply(b"".join(pieces), 200)
