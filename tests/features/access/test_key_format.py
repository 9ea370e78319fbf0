"""Text of a key, by vectors that were computed elsewhere."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.key_format import checksum, digest_of, is_key, new_key, shown

KNOWN = "slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lY"


@pytest.mark.parametrize(
    ("body", "check"),
    [
        ("slv_" + "0" * 30, "09M4m9"),
        ("slv_0123456789ABCDEFGHIJKLMNOPQRST", "2cU0lY"),
        ("slv_" + "z" * 30, "2jMddW"),
    ],
)
def test_checksums(body: str, check: str) -> None:
    assert checksum(body) == check
    assert is_key(body + check)


def test_the_hash_is_one_sha_256_of_the_whole_key() -> None:
    assert (
        digest_of(KNOWN.encode()).hex() == "b3cfd396cdbace23e97102d84366bf8137a95b2d261ec73a77ae15d8e12b81f3"
    )
    assert digest_of(KNOWN.encode()) == hashlib.sha256(KNOWN.encode()).digest()


def test_new_keys() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(is_key(key) for key in made)
    assert shown(KNOWN) == "slv_0123…0lY"


@given(st.integers(4, len(KNOWN) - 1), st.sampled_from("0aZ_- "))
def test_one_wrong_letter_is_noticed(place: int, letter: str) -> None:
    wrong = KNOWN[:place] + letter + KNOWN[place + 1 :]
    assert is_key(wrong) == (wrong == KNOWN)


def test_the_prefix_belongs_to_the_checksum() -> None:
    assert not is_key("abc_" + KNOWN[4:])
    assert not is_key(KNOWN.lower())
