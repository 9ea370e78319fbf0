"""What YAML from outside may hold."""

import sys

import pytest

from salver.encoding.plain_yaml import read_documents, read_yaml
from salver.words.errors import InvalidInput, MissingExtra

BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 16))


def test_plain_values_come_as_they_are() -> None:
    assert read_yaml(b"a: [1, 2.5, x, null, true]\nb: {c: d}", "m", "x") == {
        "a": [1, 2.5, "x", None, True],
        "b": {"c": "d"},
    }
    assert read_yaml("", "m", "x") is None
    assert read_documents("a: 1\n---\nb: 2\n", "m", "x") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "m is not valid YAML: while parsing"),
        ("a: !!python/object/apply:os.system ['true']", "m is not valid YAML"),
        ("[" * 5000, "nested too deep"),
        ("&a [*a]", "an alias refers to its own container"),
        (BOMB, "more than 20000 values"),
        ("a: 1\n---\nb: 2\n", "it has 2 documents"),
        ("x" * 1025, "m is larger than 1 KiB"),
        ("a: 2001-99-99", "month must be in"),
        (b"\xff\xfe\xfa", "m is not valid YAML"),
    ],
    ids=["broken", "code", "deep", "circle", "bomb", "two", "large", "date", "bytes"],
)
def test_what_is_harmful_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        read_yaml(text, "m", "x", 1024 if len(text) < 1024 or problem.endswith("1 KiB") else 1 << 20)


def test_whoever_has_no_reader_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtra, match=r"salver\[registry\]"):
        read_yaml("a: 1", "m", "registry")
