"""Files of properties, read and written as Java does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.java_properties import MAX_BYTES, format_properties, parse
from salver.words.errors import InvalidInput, TooLarge

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize(
    "text, values",
    [
        ("", {}),
        ("a=1\nb:2\nc 3\nd\n", {"a": "1", "b": "2", "c": "3", "d": ""}),
        ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}),
        ("  a \t=\f  x y  \n", {"a": "x y  "}),
        ("a==b\na2 := b", {"a": "=b", "a2": "= b"}),
        ("# a=1\n! b=2\n \t# c=3\nd=#4", {"d": "#4"}),
        ("a=1,\\\n    2,\\\n\t3\nb=4", {"a": "1,2,3", "b": "4"}),
        ("a=1\\\n\nb=2", {"a": "1", "b": "2"}),
        ("a=1\\\n#2", {"a": "1#2"}),
        ("# a comment does not go on \\\na=1", {"a": "1"}),
        ("a=\\\\\nb=1", {"a": "\\", "b": "1"}),
        ("a=\\", {"a": ""}),
        (r"a\ b\=\:=c\td\ne\q", {"a b=:": "c\td\neq"}),
        (r"a=\u00e9\u0041\uD83D\uDE00", {"a": "éA😀"}),
        ("a=1\na=2", {"a": "2"}),
        ("=1", {"": "1"}),
    ],
)
def test_a_file_is_read_as_java_reads_it(text: str, values: dict[str, str]) -> None:
    assert parse(text.encode(), "f") == values


def test_text_is_utf8_or_else_latin1() -> None:
    assert parse("a=é".encode(), "f") == parse("a=é".encode("latin-1"), "f") == {"a": "é"}


@pytest.mark.parametrize("text", [r"a=\u12", r"a=\uzzzz", "a\\u=1"])
def test_a_broken_escape_is_named_with_its_line(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"f, line 3: .*four hexadecimal"):
        parse(f"# first\n\n{text}".encode(), "f")


def test_a_file_is_bounded() -> None:
    with pytest.raises(TooLarge):
        parse(b"a" * (MAX_BYTES + 1), "f")


@given(st.dictionaries(TEXTS, TEXTS), st.lists(TEXTS))
def test_what_was_written_is_read_again(values: dict[str, str], comments: list[str]) -> None:
    assert parse(format_properties(values, comments).encode(), "f") == values


def test_a_file_looks_as_java_writes_it() -> None:
    assert format_properties(
        {"a b": 'http://x\n{"c": "#!="}\t', " k": " v"}, ["Saving snapshot", "now\nthen"]
    ) == ('#Saving snapshot\n#now then\na\\ b=http\\://x\\n{"c"\\: "\\#\\!\\="}\\t\n\\ k=\\ v\n')


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = parse(data, "f")
    except InvalidInput:
        return
    assert all(isinstance(value, str) for value in found.values())
