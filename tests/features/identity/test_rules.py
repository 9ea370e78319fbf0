"""The file of identities: what is wrong with it, and which row is meant for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.identity.rules import Row, Table, parse
from salver.words.errors import InvalidInput

ISSUER = """
[[issuer]]
issuer = "https://login.example.org/"
audience = "salver"
algorithms = ["RS256"]
jwks = "jwks.json"
"""
EVERYBODY = '\n[[identity]]\nscopes = ["infer"]\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ISSUER, "nobody has any right"),
        ("[[issuer", "no file of identities"),
        (ISSUER.replace('"RS256"', '"HS256"') + EVERYBODY, "'HS256' is not accepted"),
        (ISSUER.replace('"RS256"', '"RS256", "none"') + EVERYBODY, "'none' is not accepted"),
        (ISSUER.replace('["RS256"]', "[]") + EVERYBODY, "needs algorithms"),
        (ISSUER.replace('"salver"', "[]") + EVERYBODY, "needs an audience"),
        (ISSUER.replace('"salver"', '""') + EVERYBODY, "needs an audience"),
        (ISSUER + ISSUER + EVERYBODY, "two issuers"),
        (ISSUER + EVERYBODY.replace("infer", "fly"), "'fly' is no scope"),
        (ISSUER + EVERYBODY + "scope = 1", "unknown field `scope`"),
        (EVERYBODY + 'limits = { requests = "fast" }', "fast"),
        ('[[proxy]]\naddresses = ["10.0.0.0/40"]\nheaders = { sub = "x-user" }' + EVERYBODY, "10.0.0.0/40"),
        ('[[proxy]]\naddresses = ["::1"]\nheaders = { user = "x-user" }' + EVERYBODY, "names the caller"),
        ('[[proxy]]\naddresses = []\nheaders = { sub = "x-user" }' + EVERYBODY, "needs addresses"),
    ],
)
def test_a_file_that_is_wrong_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match="no file of identities") as caught:
        parse(text, "identity.toml")
    assert why in str(caught.value)


def test_the_first_row_that_matches_decides() -> None:
    table = Table(
        (
            Row(("infer",), "jwt", {"groups": "ml-*", "realm.roles": ("admin", "operator")}, tenant="ml"),
            Row(("read",), "", {"scope": "salver.read"}, name="{email}", tenant="{tid}"),
            Row(("outcomes",), "proxy"),
        )
    )

    def tenant(source: str, **claims: object) -> str | None:
        person = table.find(source, {"sub": "ann", **claims})  # type: ignore[arg-type]
        return None if person is None else f"{person.name}/{person.standing.tenant}/{person.row.scopes[0]}"

    ml = {"groups": ["web", "ml-vision"], "realm": {"roles": ["operator"]}}
    assert tenant("jwt", **ml) == "ann/ml/infer"
    assert tenant("certificate", **ml) is None
    assert tenant("proxy", **ml) == "ann//outcomes"
    assert tenant("jwt", groups=["ml-vision"], realm={"roles": ["user"]}) is None
    assert tenant("jwt", groups="ml-vision", realm="roles") is None
    about = {"scope": "openid salver.read", "email": "ann@example.org"}
    assert tenant("jwt", **about, tid="acme") == "ann@example.org/acme/read"
    for odd in ("*", "", None, 7, "é", "a\nb", "a" * 129, ["acme"]):  # no claim stands for every tenant
        assert tenant("jwt", **about, tid=odd) is None
    assert tenant("jwt", scope="salver.reading", tid="acme", email="e") is None


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        ),
    ),
    st.lists(st.text(max_size=3), max_size=3),
)
def test_no_claims_break_the_table(claims: dict[str, object], path: list[str]) -> None:
    name = ".".join(path) or "sub"
    rows = (
        Row(("infer",), match={name: "*a*"}, name=f"{{{name}}}"),
        Row(("read",), name="{sub}", tenant="{tid}"),
    )
    person = Table(rows).find("jwt", claims)
    if person is not None:
        assert person.name and person.name.isascii() and person.name.isprintable()
        assert "*" not in person.standing.tenant
