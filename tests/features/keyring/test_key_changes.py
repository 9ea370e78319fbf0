"""Changes of keys, and who may make them."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.keys_file import KeyRecord, Previous, hash_of
from salver.features.access.limits import LimitRules
from salver.features.access.scopes import Scopes
from salver.features.keyring.key_changes import (
    Author,
    KeyWish,
    Stored,
    find,
    limited,
    made,
    revoked,
    rotated,
    seen,
)
from salver.transport.restrict import Right
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound, OutOfScope

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ADA = KeyRecord("k1", "ada", hash_of("a"), ("infer:m*", "read"), created=NOW, limits=LimitRules("5/s"))
PATTERNS = st.text("ab*", max_size=4)
SCOPES = st.lists(
    st.builds(
        lambda right, pattern: f"{right}:{pattern}" if pattern else right,
        st.sampled_from(["infer", "read", "*"]),
        PATTERNS,
    ),
    min_size=1,
    max_size=3,
)


def allows(scopes: Scopes, right: Right, model: str) -> bool:
    try:
        scopes.of(right).check(model)
    except OutOfScope:
        return False
    return True


@given(SCOPES, SCOPES, st.sampled_from(["infer", "read", "access"]), st.text("ab", max_size=6))
def test_scopes_that_are_covered_allow_nothing_more(
    mine: list[str], theirs: list[str], right: Right, model: str
) -> None:
    own, given = Scopes(mine), Scopes(theirs)
    assert own.covers(mine)
    if own.covers(theirs) and allows(given, right, model):
        assert allows(own, right, model)


@pytest.mark.parametrize(
    ("mine", "theirs", "covers"),
    [
        ("*", "infer", True),
        ("*", "*", True),
        ("infer", "infer:m*", True),
        ("infer:m*", "infer", False),
        ("infer:m*", "infer:m*x", True),
        ("infer:m*", "infer:*", False),
        ("infer:m", "infer:m*", False),
        ("access", "infer", False),
        ("infer read models registry releases outcomes access", "*", False),  # rights to come are in it
    ],
)
def test_what_scopes_cover(mine: str, theirs: str, covers: bool) -> None:
    assert Scopes(mine.split()).covers(theirs.split()) == covers


def test_a_key_gives_no_right_that_it_does_not_have() -> None:
    author = Author("eve", Scopes(("access", "infer:m*")), "k9")
    author.check(msgspec.structs.replace(ADA, scopes=("infer:mlp",)), "key.made")
    for scopes in (("read",), ("infer",), ("*",)):
        with pytest.raises(Forbidden, match="more rights"):
            author.check(msgspec.structs.replace(ADA, scopes=scopes), "key.made")
    own = KeyRecord("k9", "eve", hash_of("e"), ("infer:m*",))
    author.check(own, "key.rotated")
    with pytest.raises(Forbidden, match="own limits"):
        author.check(own, "key.changed")
    for anybody in (Author("ann"), Author("root", Scopes(("*",)), "k9")):
        anybody.check(own, "key.changed")
        anybody.check(ADA, "key.made")


def test_the_life_of_a_record() -> None:
    wish = KeyWish(name="web", scopes=("infer",), expires="12h", limits=LimitRules(), tenant="acme")
    new = made(wish, "slv_secret", "k2", NOW)
    assert (new.hash, new.limits, new.not_after) == (hash_of("slv_secret"), None, NOW + timedelta(hours=12))
    turned = rotated(new, "slv_other", "30m", NOW)
    assert turned.previous == Previous(hash_of("slv_secret"), NOW + timedelta(minutes=30))
    assert (turned.id, turned.not_after, turned.hash) == ("k2", new.not_after, hash_of("slv_other"))
    slow = limited(turned, LimitRules("1/s"), NOW)
    assert slow == msgspec.structs.replace(turned, limits=LimitRules("1/s"))
    assert limited(slow, None, NOW).limits is None
    over = revoked(slow, NOW)
    assert revoked(over, NOW + timedelta(days=1)) == over
    for wrong in (over, msgspec.structs.replace(new, not_after=NOW)):
        with pytest.raises(Conflict):
            rotated(wrong, "x", "1h", NOW)
        with pytest.raises(Conflict):
            limited(wrong, None, NOW)


@pytest.mark.parametrize(
    "wish",
    [
        KeyWish(name="a\n"),
        KeyWish(name="a", scopes=("drive",)),
        KeyWish(name="a", expires="soon"),
        KeyWish(name="a", limits=LimitRules("many")),
        KeyWish(name="a", limits=LimitRules(at_once=-1)),
        KeyWish(name="a", tenant="é"),
    ],
)
def test_wrong_wishes(wish: KeyWish) -> None:
    with pytest.raises(InvalidInput):
        made(wish, "slv_secret", "k1", NOW)


def test_keys_are_found_by_id_or_by_a_name_of_their_own() -> None:
    bob = KeyRecord("k2", "bob", hash_of("b"), ("infer",), revoked=NOW)
    new = msgspec.structs.replace(bob, id="k3", revoked=None)
    odd = msgspec.structs.replace(bob, id="k4", name="k1")
    every = [Stored(each) for each in (ADA, bob, new, odd)]
    found = [find(every, text).record.id for text in ("k1", "ada", "bob", "k2")]
    assert found == ["k1", "k1", "k3", "k2"]
    with pytest.raises(NotFound):
        find(every, "k9")
    with pytest.raises(Conflict, match="k3, k5"):
        find([*every, Stored(msgspec.structs.replace(new, id="k5"))], "bob")


def test_what_is_seen_of_a_key_has_no_hash() -> None:
    record = msgspec.structs.replace(ADA, previous=Previous(hash_of("z"), NOW), not_after=NOW)
    shown = seen(Stored(record, "ann", 7.0), NOW)
    assert (shown.state, shown.by, shown.last_use, shown.previous_until) == (
        *("expired", "ann", 7.0),
        NOW.timestamp(),
    )
    text = msgspec.json.encode(shown).decode()
    assert "sha256" not in text and hash_of("a")[7:] not in text
    assert "tenant" not in text, "what is as usual is left out"
