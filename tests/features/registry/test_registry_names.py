"""What may models, aliases and tags be called, and what does a reference mean?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.registry.names import (
    LATEST,
    Reference,
    check_alias,
    check_key,
    check_model,
    check_words,
    parse,
)
from salver.words.errors import InvalidInput

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda name: not name.lower().endswith((".tmp", ".part", ".partial", ".crdownload", ".swp"))
)
ALIASES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(lambda a: a != LATEST)


@given(NAMES, st.integers(1, 10**18 - 1), ALIASES)
def test_what_is_written_is_read(model: str, number: int, alias: str) -> None:
    for reference in (Reference(model), Reference(model, number), Reference(model, alias=alias)):
        assert parse(str(reference)) == reference
    assert parse(f"{model}@{LATEST}") == Reference(model)


@given(st.text(max_size=40))
def test_whatever_is_written_is_read_or_refused_in_words(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidInput as error:
        assert error.fix
    else:
        assert check_model(reference.model) == reference.model
        assert not (reference.number is not None and reference.alias)


@pytest.mark.parametrize(
    "text",
    ["", "/1", "@a", "a/", "a/0", "a/01", "a/x", "a/-1", "a@", "a@1", "a@b@c", "a/1/2", "../a", "a b",
     "a.tmp", "A.PART", ".a", "-a", "ä", "a" * 129, "a@" + "b" * 65,
     "a\n", "a/1\n", "a@b\n", "a\0"],
)  # fmt: skip
def test_names_that_lead_elsewhere_or_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


def test_latest_is_nobodys_to_set() -> None:
    with pytest.raises(InvalidInput, match="always means the newest version"):
        check_alias(LATEST)


@pytest.mark.parametrize("key", ["", " a", "a=b", "a\n", "x" * 129, "ä"])
def test_keys_are_bounded(key: str) -> None:
    with pytest.raises(InvalidInput, match="not allowed as a tag"):
        check_key(key, "tag")


def test_words_are_bounded() -> None:
    assert check_words("ä" * 4096, "reason") == "ä" * 4096
    for text in ("x" * 4097, "a\0b", "\udcff"):
        with pytest.raises(InvalidInput, match="the reason is too long, contains NUL"):
            check_words(text, "reason")
