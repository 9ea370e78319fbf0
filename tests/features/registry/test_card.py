"""Is a card's front matter read as plain values, whatever stands in it?"""

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.registry.card import front_matter
from salver.words.errors import InvalidInput, MissingExtra

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
)
FACES = """---
license: apache-2.0
tags: [fraud, tabular]
model-index:
  - name: fraud
    results: [{value: 0.93}]
released: 2026-11-26
---
# Fraud
"""


def test_keys_as_on_hugging_face() -> None:
    assert front_matter(FACES) == {
        "license": "apache-2.0",
        "tags": ["fraud", "tabular"],
        "model-index": [{"name": "fraud", "results": [{"value": 0.93}]}],
        "released": "2026-11-26",
    }


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# Only words",
        "---\n",
        "---\nlicense: mit\n",
        " ---\na: 1\n---\n",
        "---\n\n---\nwords",
        "a\n---\nb: 1\n---",
    ],
    ids=["nothing", "words", "fence", "open", "indented", "empty", "later"],
)
def test_a_card_without_front_matter_has_no_keys(card: str) -> None:
    assert front_matter(card) == {}


def test_a_mark_of_byte_order_and_carriage_returns_do_no_harm() -> None:
    assert front_matter("\ufeff---\r\nlicense: mit\r\n---\r\nwords") == {"license": "mit"}


@pytest.mark.parametrize(
    ("matter", "problem"),
    [
        ("- a", "holds no keys"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("a: &x [1]\nb: " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        (BOMB, "than 20000 values"),
        ("x: " + "y" * 70_000, "larger than 64 KiB"),
        (r'x: ["\ud800"]', "is not text"),
        (r'"\ud800": 1', "is not text"),
        (r'x: "\0"', "contains NUL"),
    ],
    ids=["list", "broken", "code", "deep", "bomb", "long", "half", "key", "nul"],
)  # fmt: skip
def test_what_is_dangerous_or_no_keys_is_refused(matter: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        front_matter(f"---\n{matter}\n---\n")


def test_a_card_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput, match="longer than 1 MiB"):
        front_matter("x" * (1 << 20) + "y")


@given(st.text(max_size=200))
def test_any_text_becomes_values_that_json_can_hold_or_is_refused(text: str) -> None:
    try:
        found = front_matter(f"---\n{text}\n---\n")
    except InvalidInput:
        return
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_without_a_reader_of_yaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert front_matter("# no keys") == {}
    with pytest.raises(MissingExtra, match=r"pip install 'salver\[registry\]'"):
        front_matter(FACES)
