"""Who may change something through a port?"""

import asyncio
import hashlib
from pathlib import Path

import pytest

from salver.transport.access_check import Access, AccessRules, ApiConfig, Caller, is_loopback
from salver.transport.restrict import Guard, parse
from salver.words.errors import Forbidden, InvalidInput, SalverError, Unauthenticated

TOKEN = "0123456789abcdef0123"
JSON = {b"content-type": b"application/json", b"host": b"localhost:8000"}


@pytest.fixture
def digest(tmp_path: Path) -> bytes:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return ApiConfig(str(tmp_path / "token")).digest()


def check(access: Access, headers: dict[bytes, bytes], *, changes: bool = True) -> Caller | None:
    """Who may do it, where it is a change."""
    access.check(headers, "metadata", changes=changes)
    return asyncio.run(access.caller(headers)) if changes else None


async def ada_only(token: str) -> Caller:
    if token != "registry-token-of-ada":
        raise Unauthenticated("nobody's")
    return Caller("ada", frozenset({"release"}))


def test_looking_is_free() -> None:
    check(Access("127.0.0.1"), {b"host": b"127.0.0.1"}, changes=False)
    check(Access("0.0.0.0"), {b"host": b"models.example.org"}, changes=False)


def test_who_may_change_something() -> None:
    digest = b"d" * 32
    ports = [Access("127.0.0.1"), Access("::1"), Access(""), Access("0.0.0.0"), Access("0.0.0.0", digest)]
    assert [port.changing for port in ports] == ["open", "open", "open", "refused", "token"]


def test_changes_from_this_machine_need_nothing() -> None:
    check(Access("127.0.0.1"), JSON)
    check(Access(""), {b"content-type": b"application/json; charset=utf-8"})


def test_changes_where_others_come_are_refused_with_the_remedy() -> None:
    with pytest.raises(Forbidden, match="--api-token-file"):
        check(Access("0.0.0.0"), JSON)


def test_the_token_opens_and_nothing_else_does(digest: bytes) -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        port = Access(host, digest)
        check(port, JSON | {b"authorization": f"Bearer {TOKEN}".encode()})
        check(port, JSON | {b"authorization": f"bearer  {TOKEN} ".encode()})
        for wrong in ({}, {b"authorization": b"Basic eDp5"}, {b"authorization": b"Bearer x"}):
            with pytest.raises(Unauthenticated):
                check(port, JSON | wrong)


def test_the_registrys_tokens_open_too_and_prove_who_it_is(digest: bytes) -> None:
    headers = JSON | {b"authorization": b"Bearer registry-token-of-ada", b"x-salver-actor": b"eve"}
    for host, of_server in (("0.0.0.0", b""), ("0.0.0.0", digest), ("127.0.0.1", b"")):
        port = Access(host, of_server, read_token=ada_only)
        assert check(port, headers) == Caller("ada", frozenset({"release"}))
        with pytest.raises(Unauthenticated):
            check(port, JSON | {b"authorization": b"Bearer registry-token-of-eve"})
    with pytest.raises(Unauthenticated, match="needs a token"):
        check(Access("0.0.0.0", read_token=ada_only), JSON)


def test_who_says_a_name_has_not_proven_it() -> None:
    assert check(Access("127.0.0.1"), JSON) == Caller("api")
    assert check(Access("127.0.0.1"), JSON | {b"x-salver-actor": b"ada"}) == Caller("api:ada")
    assert check(Access("127.0.0.1"), JSON | {b"x-salver-actor": b"a\nb"}) == Caller("api")
    for sent, name in (
        (b"Zo%C3%AB", "Zoë"),
        (b"100%", "100%"),
        (b"%FF", "%FF"),
        (b"a%0Ab", "a%0Ab"),
        (b"%E2%80%AEx", "%E2%80%AEx"),
    ):
        assert check(Access("127.0.0.1"), JSON | {b"x-salver-actor": sent}) == Caller(f"api:{name}")


@pytest.mark.parametrize(
    "kind", [b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"]
)
def test_a_form_changes_nothing(kind: bytes) -> None:
    with pytest.raises(InvalidInput, match="application/json"):
        check(Access("127.0.0.1"), JSON | {b"content-type": kind})


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"https://evil.example.org"},
        {b"origin": b"null"},
        {b"origin": b"http://localhost:9000"},
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"same-site"},
    ],
    ids=["other", "null", "other-port", "cross-site", "same-site"],
)
def test_pages_of_other_origins_change_nothing(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Forbidden, match="origin"):
        check(Access("127.0.0.1"), JSON | headers)


def test_the_console_itself_may() -> None:
    check(
        Access("127.0.0.1"), JSON | {b"origin": b"http://localhost:8000", b"sec-fetch-site": b"same-origin"}
    )


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"evil.example.org:8000", b"127.0.0.1.nip.io", b"localhost.evil.org", b"[::1"),
        *(b"evil.example.org@localhost", b"localhost#evil.example.org", b"localhost/evil", b"localhost?a"),
    ],
)
def test_a_name_that_only_points_here_sees_nothing(host: bytes) -> None:
    with pytest.raises(Forbidden, match="this machine's own"):
        check(Access("127.0.0.1"), {b"host": host}, changes=False)


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:1", b"127.0.0.9:80", b"[::1]:8000", b"localhost.:1"]
)
def test_names_of_this_machine(host: bytes) -> None:
    check(Access("localhost"), {b"host": host}, changes=False)


@pytest.mark.parametrize("host", [b"10.0.0.5:8000", b"0.0.0.0:8000", b"[fe80::1]:80"])
def test_an_address_in_numbers_is_nobodys_name(host: bytes) -> None:
    Access("127.0.0.1").check_host({b"host": host})


def test_programs_that_name_no_host() -> None:
    port = Access("127.0.0.1")
    port.check_host({})
    port.check_host({b"host": b"localhost"})
    port.check_host({})


def test_hosts_are_looked_at_once_and_few_are_remembered() -> None:
    port = Access("127.0.0.1")
    assert not port.knows_host({b"host": b"localhost:1"})
    for number in range(200):
        port.check_host({b"host": b"localhost:%d" % number})
        assert port.knows_host({b"host": b"localhost:%d" % number})
        assert len(port.known_hosts) <= 64
    with pytest.raises(Forbidden):
        port.check_host({b"host": b"evil.example.org"})
    assert not port.knows_host({b"host": b"evil.example.org"})
    for elsewhere in (Access("0.0.0.0"), Access("")):
        assert elsewhere.knows_host({b"host": b"models.example.org"})


def test_further_names() -> None:
    port = Access("127.0.0.1", rules=AccessRules(hosts=("Models.example.org.",)))
    for host in (b"models.example.org", b"MODELS.example.org:443", b"models.example.org."):
        port.check_host({b"host": host})
    with pytest.raises(Forbidden, match="--allowed-host"):
        port.check_host({b"host": b"other.example.org"})


def permit(access: Access, **headers: str) -> Caller:
    sent = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
    return asyncio.run(access.permit({b"host": b"localhost:8000", **sent}, "load"))


def test_a_change_in_another_protocol_needs_no_json() -> None:
    assert permit(Access("127.0.0.1")) == Caller("api")
    assert permit(Access("127.0.0.1"), content_type="text/plain", x_salver_actor="ada") == Caller("api:ada")


def test_a_secret_for_somebody_else_is_in_nobodys_way_where_none_is_asked_for() -> None:
    for name in ("Bearer for-a-gateway", "Basic eDp5"):
        assert permit(Access("127.0.0.1"), authorization=name) == Caller("api")


def test_pages_of_other_origins_change_nothing_in_another_protocol_either() -> None:
    digest = hashlib.sha256(TOKEN.encode()).digest()
    for port in (Access("127.0.0.1"), Access(""), Access("0.0.0.0", digest)):
        for headers in ({"origin": "http://evil.example.org"}, {"sec_fetch_site": "cross-site"}):
            with pytest.raises(Forbidden, match="origin"):
                permit(port, authorization=f"Bearer {TOKEN}", **headers)


def test_pages_of_an_origin_that_torchserves_operator_named() -> None:
    port = Access("127.0.0.1", rules=AccessRules(origins=frozenset({"https://app.example.org"})))
    permit(port, origin="https://app.example.org", sec_fetch_site="cross-site")
    with pytest.raises(Forbidden):
        permit(port, origin="https://other.example.org")
    permit(Access("127.0.0.1", rules=AccessRules(origins=frozenset({"*"}))), origin="https://any.example.org")


def test_everybody_may_where_the_operator_says_so() -> None:
    everybody = AccessRules(allows_remote=True)
    port = Access("0.0.0.0", rules=everybody)
    assert port.changing == "open"
    permit(port, host="models.example.org")
    permit(port, host="10.0.0.5:8000", origin="http://10.0.0.5:8000")
    with pytest.raises(Forbidden, match="may own that name"):
        permit(port, host="evil.example.org", origin="http://evil.example.org")
    named = Access("0.0.0.0", rules=AccessRules(allows_remote=True, hosts=("models.example.org",)))
    permit(named, host="models.example.org", origin="http://models.example.org")
    assert Access("0.0.0.0", b"d" * 32, rules=everybody).changing == "token"
    assert Access("0.0.0.0", read_token=ada_only, rules=everybody).changing == "token"


def test_a_token_for_outcomes_alone_changes_nothing_else() -> None:
    async def of_an_application(token: str) -> Caller:
        return Caller("app", frozenset({"outcomes"}))

    with pytest.raises(Forbidden, match="posts outcomes"):
        permit(Access("0.0.0.0", read_token=of_an_application), authorization="Bearer x")


def test_restrictions_of_the_operator_hold_here_too() -> None:
    guard = Guard([parse("model-repository:admin=sesame", "--http-restricted-api")])
    port = Access("127.0.0.1", guard=guard)
    check(port, JSON, changes=False)
    check(port, JSON | {b"admin": b"sesame"})
    with pytest.raises(Forbidden, match="admin"):
        check(port, JSON)


@pytest.mark.parametrize(
    "text", ["", "short", "white space in a token", "é" * 20], ids=["empty", "short", "space", "é"]
)
def test_a_file_without_a_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InvalidInput, match="openssl"):
        ApiConfig(str(tmp_path / "token")).digest()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SalverError, match="cannot be read"):
        ApiConfig(str(tmp_path / "none")).digest()
    assert ApiConfig().digest() == b""


def test_the_token_is_not_told() -> None:
    assert TOKEN not in repr(Access("0.0.0.0", b"d" * 32))
    assert not is_loopback("")
