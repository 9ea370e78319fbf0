"""Bodies of requests to handlers, held against what TorchServe 0.12's front made of each."""

import contextlib
from unittest.mock import patch
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve import bodies as ts_bodies
from salver.dialects.torchserve.bodies import LARGE, is_large, query_of, read_form
from salver.dialects.torchserve.faults import NamedFault
from salver.encoding import multipart
from salver.encoding.multipart import MOST_PARTS
from salver.words.errors import InvalidInput, SalverError

MULTIPART = "multipart/form-data; boundary=B"
URLENCODED = "application/x-www-form-urlencoded"
END = "--B--\r\n"
Fields = dict[str, tuple[bytes, str]]


def fields(body: str | bytes, content_type: str = MULTIPART) -> Fields:
    data = body.encode() if isinstance(body, str) else body
    return {
        part.name: (part.data.tobytes(), part.content_type) for part in read_form(data, content_type).parts
    }


def field(name: str, data: str, more: str = "", file: str = "", line: str = "\r\n") -> str:
    named = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return f"--B{line}{named}{line}{more}{line}{data}{line}"


ONE: Fields = {"a": (b"1", "")}


@pytest.mark.clause("TS-R12")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (field("a", "1") + END, ONE),
        (field("a", "1") + field("b", "2") + END, {**ONE, "b": (b"2", "")}),
        (field("a", "1") + field("a", "2") + END, {"a": (b"2", "")}),
        ("\r\n" + field("a", "1") + END, ONE),
        (field("a", "1") + END + "what follows", ONE),
        (field("a", "1") + "--B--", ONE),
        (field("a", "1", line="\n") + "--B--\n", ONE),
        (field("a", "x--B y") + END, {"a": (b"x--B y", "")}),
        (field("a", "x\r\n--Bz y") + END, {"a": (b"x", "")}),
        (field("a", "1\r\n") + END, {"a": (b"1\r\n", "")}),
        (field("a", "") + END, {"a": (b"", "")}),
        (field("a", "MQ==", "Content-Transfer-Encoding: base64\r\n") + END, {"a": (b"MQ==", "")}),
        (field("a", "12345", "Content-Length: 3\r\n") + END, {"a": (b"12345", "")}),
        (field("a", "1", "X-Odd\r\n") + END, ONE),
        ("--B\r\ncontent-disposition: FORM-DATA; NAME=a\r\n\r\n1\r\n" + END, ONE),
        ("--B\r\nContent-Disposition : form-data; name='a'\r\n\r\n1\r\n" + END, {"'a'": (b"1", "")}),
        (field("a;b", "1") + END, {"a b": (b"1", "")}),
        (field('a\\"b', "1") + END, {"a\\b": (b"1", "")}),
        (field("ä", "1") + END, {"ä": (b"1", "")}),
        (field("a%20b", "1") + END, {"a%20b": (b"1", "")}),
        # A field's own content type does not count, a file's does.
        (field("a", "1", "Content-Type: application/json\r\n") + END, ONE),
        (field("a", "1", "Content-Type: text/csv; x=y\r\n", "f") + END, {"a": (b"1", "text/csv")}),
        (field("a", "1", file="f") + END, {"a": (b"1", "application/octet-stream")}),
        # What does not end is left out; so is what does not begin.
        (field("a", "1"), {}),
        (field("a", "1") + field("b", "2"), ONE),
        ("hello\r\n" + field("a", "1") + END, {}),
        ("--B  \r\n" + field("a", "1")[5:] + END, {}),
        ("--B\r\nnothing", {}),
        ("", {}),
        (END, {}),
    ],
)
def test_a_multipart_body_is_its_fields(body: str, expected: Fields) -> None:
    assert fields(body) == expected


@pytest.mark.clause("TS-R12")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a=1&a=2&a=3", {"a": (b"3", "")}),
        ("a=&b", {"a": (b"", "")}),
        ("a&b=1", {"a": (b"", ""), "b": (b"1", "")}),
        ("a=1;b=2", {"a": (b"1;b=2", "")}),
        ("a=b=c", {"a": (b"b=c", "")}),
        ("a=%41+b", {"a": (b"A b", "")}),
        ("a=%ff", {"a": (b"\xff", "")}),
        ("a%20b=1", {"a b": (b"1", "")}),
        ("ä=ö", {"ä": ("ö".encode(), "")}),
        ("a=1\r\nb=2", ONE),
        ("a=1&", ONE),
        ("x", {}),
        ("", {}),
    ],
)
def test_an_urlencoded_body_is_its_fields(body: str, expected: Fields) -> None:
    assert fields(body, URLENCODED) == expected
    assert fields(body, URLENCODED.upper() + "; charset=utf-8") == expected


@pytest.mark.clause("TS-R12")
@pytest.mark.parametrize(
    ("content_type", "mime"),
    [
        ("", ""),
        ("text/plain", "text/plain"),
        ("application/json; charset=utf-8", "application/json"),
        ("multipart/form-data", "multipart/form-data"),
        ("Multipart/Form-Data; boundary=B", "Multipart/Form-Data"),
        ("multipart/mixed; boundary=B", "multipart/mixed"),
    ],
)
def test_any_other_body_is_one_part(content_type: str, mime: str) -> None:
    assert fields(b"--B\r\n", content_type) == {"body": (b"--B\r\n", mime)}


@pytest.mark.clause("TS-R12")
@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data;boundary=B",
        'multipart/form-data; Boundary="B"',
        "multipart/form-data; charset=utf-8; boundary=B",
        "multipart/form-data; boundary=B;",
        "multipart/form-data;x;boundary=B; charset=utf-8",
    ],
)
def test_a_boundary_is_found_wherever_it_stands(content_type: str) -> None:
    assert fields(field("a", "1") + END, content_type) == ONE


@pytest.mark.clause("TS-R12")
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("--B\r\nContent-Disposition: form-data\r\n\r\n1\r\n" + END, MULTIPART),
        ("--B\r\nContent-Type: text/plain\r\n\r\n1\r\n" + END, MULTIPART),
        (field("", "1") + END, MULTIPART),
        (field("a", "1", "Content-Transfer-Encoding: quoted-printable\r\n", "f") + END, MULTIPART),
        (field("a", "1") + END, "multipart/form-data; boundary="),
        ("a=%zz", URLENCODED),
        ("a=%4", URLENCODED),
        ("=v", URLENCODED),
        ("&&a=1", URLENCODED),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_by_its_name(body: str, content_type: str) -> None:
    with pytest.raises(NamedFault) as caught:
        fields(body, content_type)
    assert (caught.value.status, caught.value.kind) == (500, "ErrorDataDecoderException")


def test_a_form_has_so_many_fields_and_no_more() -> None:
    names = [str(number) for number in range(MOST_PARTS + 1)]
    assert len(fields("&".join(f"{name}=" for name in names[1:]), URLENCODED)) == MOST_PARTS
    for body, kind in (
        ("&".join(f"{name}=" for name in names), URLENCODED),
        ("".join(field(name, "") for name in names) + END, MULTIPART),
        ("&".join(["a="] * 5000), URLENCODED),
    ):
        with pytest.raises(InvalidInput, match="more than 1024 fields"):
            fields(body, kind)
    with pytest.raises(InvalidInput, match="longer than 8192 bytes"):
        fields(field("a", "1", f"X-Long: {'x' * 9000}\r\n") + END)


@pytest.mark.clause("TS-R9")
def test_parts_of_the_path_come_first_and_give_way() -> None:
    asked = read_form(b"x", "text/plain", {"a": "b"}, [("a", "1"), ("body", "2"), ("ä", "ö")])
    assert {part.name: part.data.tobytes() for part in asked.parts} == {
        "a": b"1",
        "body": b"x",
        "ä": "ö".encode(),
    }
    assert asked.headers == {"a": "b"}


@pytest.mark.clause("TS-R12")
def test_a_query_string_is_its_parameters() -> None:
    assert query_of(b"a=1&b=%41+c;d&=x&") == [("a", "1"), ("b", "A c"), ("d", "")]
    assert len(query_of(b"a=1&" * 5000)) == MOST_PARTS
    for query, text in (
        (b"a=%zz", "invalid hex byte 'zz' at index 11 of '/models?a=%zz'"),
        (b"limit=%4", "unterminated escape sequence at index 14 of: /models?limit=%4"),
    ):
        with pytest.raises(NamedFault) as caught:
            query_of(query, b"/models")
        assert (caught.value.status, caught.value.kind, caught.value.message) == (
            403,
            "IllegalArgumentException",
            text,
        )


NAMES = st.text(
    st.characters(exclude_characters='":,=;\t\\', min_codepoint=33, max_codepoint=0x2FF), min_size=1
)
DATA = st.tuples(st.binary(max_size=64), st.sampled_from(["", "text/plain", "image/png"]))


@given(st.dictionaries(NAMES, DATA, max_size=8))
def test_what_a_client_packs_is_unpacked_alike(packed: Fields) -> None:
    boundary = b"--such-a-thing-is-in-no-field"
    body = b""
    for name, (data, kind) in packed.items():
        file = f'; filename="f"\r\nContent-Type: {kind}' if kind else ""
        head = f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += boundary + b"\r\n" + head.encode() + data + b"\r\n"
    body += boundary + b"--\r\n"
    expected = {name.strip(): value for name, value in packed.items()}
    if all(expected) and not any("\x7f" <= mark <= "\xa0" for name in packed for mark in name):
        assert fields(body, f"multipart/form-data; boundary={boundary[2:].decode()}") == expected


@given(st.binary(max_size=300), st.sampled_from([MULTIPART, URLENCODED]))
def test_any_bytes_are_a_form_or_an_error(body: bytes, content_type: str) -> None:
    pieces = b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n" + body
    for each in (body, pieces, pieces + b"\r\n--B--"):
        with contextlib.suppress(SalverError):
            assert all(name for name in fields(each, content_type))


ESCAPES = st.text("%+=_ .aF4zé\t\0", max_size=40) | st.lists(
    st.sampled_from(["%41", "%3d", "%0A", "%C3%A9", "+", "=", "a"]), max_size=20
).map("".join)


@given(ESCAPES, st.integers(3, 9))
def test_a_long_value_is_read_in_steps_as_a_short_one_is(text: str, step: int) -> None:
    body = b"a=" + text.encode().replace(b"&", b"")
    with patch.object(ts_bodies, "_STEP", step):
        if wrong := ts_bodies._HEX.search(body):
            with pytest.raises(NamedFault, match=f"index '{wrong.start() - 2}'"):
                read_form(body, URLENCODED)
        else:
            found = unquote_to_bytes(body[2:].replace(b"+", b" "))
            assert fields(body, URLENCODED) == {"a": (found, "")}


@pytest.mark.parametrize("step", range(1, 12))
def test_a_boundary_is_found_wherever_a_step_ends(step: int) -> None:
    body = field("a", "12") + field("b", "345\r\n--A") + END
    with patch.object(multipart, "_STEP", step):
        assert fields(body) == {"a": (b"12", ""), "b": (b"345\r\n--A", "")}


def test_large_forms_are_told_from_other_bodies() -> None:
    large = bytes(LARGE + 1)
    for kind in (MULTIPART, URLENCODED, f" {URLENCODED.upper()}; charset=x"):
        assert is_large(large, kind)
        assert not is_large(large[1:], kind)
    for kind in ("", "image/png", "application/json"):
        assert not is_large(large, kind)
