"""Reading over HTTP what belongs to somebody else: redirects, digests, bounds."""

import hashlib
from pathlib import Path

import pytest
from sites import Page, Site, a_site

from salver.stores import StoreFailed
from salver.stores.sources.downloading import Digest, parse_digest
from salver.stores.sources.fetched import silent
from salver.stores.sources.web import HttpError, Web, may_follow

BODY = b"weights" * 1000
SHA256 = Digest("sha256", hashlib.sha256(BODY).hexdigest())
SHA512 = Digest("sha512", hashlib.sha512(BODY).hexdigest())


@pytest.mark.parametrize("digest", [None, SHA256, SHA512], ids=["none", "sha256", "sha512"])
def test_a_download_is_written_hashed_and_told(site: Site, tmp_path: Path, digest: Digest | None) -> None:
    site.pages["/m"] = Page(BODY)
    told: list[tuple[str, int, int]] = []
    found = Web().download(f"{site.url}/m", tmp_path / "m", lambda *all: told.append(all), digest=digest)
    assert (tmp_path / "m").read_bytes() == BODY
    assert found == SHA256.hex
    assert told[-1] == (f"{site.url}/m", len(BODY), len(BODY))


@pytest.mark.parametrize(
    ("page", "digest", "size", "words"),
    [
        (Page(BODY + b"!"), SHA256, None, "is not what its digest says"),
        (Page(BODY + b"!"), SHA512, None, "should be sha512:"),
        (Page(BODY, length=len(BODY) + 1), None, None, "ended after 7000 of 7001 bytes"),
        (Page(BODY, length=-1), None, 6999, "more than 6999 bytes"),
        (Page(BODY, length=-1), None, 7001, "ended after 7000 of 7001 bytes"),
        (Page(BODY, length=1 << 60), None, None, "there is room for"),
        (Page(b"no such\nthing\x1b[31m", 404), None, None, "answers 404 Not Found: no such thing [31m"),
        (Page(b"", 500), None, None, "answers 500"),
    ],
    ids=["sha256", "sha512", "short", "long", "shorter", "no-room", "missing", "broken"],
)
def test_what_is_not_what_it_should_be_is_refused(
    site: Site, tmp_path: Path, page: Page, digest: Digest | None, size: int | None, words: str
) -> None:
    site.pages["/m"] = page
    with pytest.raises(StoreFailed) as raised:
        Web().download(f"{site.url}/m?X-Signature=secret", tmp_path / "m", silent, digest=digest, size=size)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_it_may_not_take_for_ever(site: Site, tmp_path: Path) -> None:
    site.pages["/m"] = Page(BODY)
    ticks = iter([0.0, 6 * 3600.0 + 1])
    with pytest.raises(StoreFailed, match="longer than 21600 seconds"):
        Web(lambda: next(ticks)).download(f"{site.url}/m", tmp_path / "m", silent)


def leads(to: str, status: int = 302) -> Page:
    return Page(b"", status, {"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site: Site, status: int) -> None:
    site.pages |= {"/a": leads("/b?q=1", status), "/b": leads("c", status), "/c": Page(b"here")}
    assert Web().content(f"{site.url}/a")[0] == b"here"


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("/a", "leads on and on"),
        ("/b", "leads on and on"),
        ("", "leads on and on"),
        ("file:///etc/passwd", "which is not allowed"),
        ("ftp://127.0.0.1/x", "which is not allowed"),
        ("http://[::1", "which is not allowed|cannot be read"),
        ("http://127.0.0.1:99999/x", "which is not allowed"),
    ],
    ids=["itself", "round", "empty", "file", "ftp", "odd", "no-port"],
)
def test_redirects_that_lead_nowhere_are_not_followed(site: Site, to: str, words: str) -> None:
    site.pages |= {"/a": leads(to), "/b": leads("/a")}
    with pytest.raises(StoreFailed, match=words):
        Web().content(f"{site.url}/a")
    assert len(site.asked) <= 6


@pytest.mark.parametrize(
    ("here", "there", "may"),
    [
        ("https://a.example/x", "https://b.example/", True),
        (
            "https://a.example/x",
            "http://a.example/x",
            False,
        ),  # which others could read
        ("http://127.0.0.1/x", "http://b.example/", True),
        ("http://127.0.0.1/x", "https://b.example/", True),
    ],
)
def test_from_https_one_is_led_to_https_alone(here: str, there: str, may: bool) -> None:
    assert may_follow(here, there) is may


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:,x", "http", "", "https://[::1"])
def test_only_http_is_read(url: str) -> None:
    with pytest.raises(StoreFailed):
        Web().content(url)


def test_who_we_are_stays_with_the_host_that_asked(site: Site) -> None:
    with a_site() as other:
        other.pages["/blob"] = Page(b"here")
        site.pages |= {"/a": leads("/b"), "/b": leads(f"{other.url}/blob")}
        Web().content(f"{site.url}/a", {"Authorization": "Bearer secret"})
    assert [headers.get("authorization") for _, headers in site.asked] == ["Bearer secret"] * 2
    assert [headers.get("authorization") for _, headers in other.asked] == [None]


def test_nobody_there_is_told() -> None:
    with a_site() as gone:
        url = gone.url
    with pytest.raises(StoreFailed, match=r"cannot be read: .*refused"):
        Web().content(url)


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b'"x"', b"[" * 100_000, b""])
def test_an_answer_that_is_no_object_is_refused(site: Site, body: bytes) -> None:
    site.pages["/a"] = Page(body)
    with pytest.raises(StoreFailed, match="JSON"):
        Web().json(f"{site.url}/a")


def test_a_short_answer_is_bounded(site: Site) -> None:
    site.pages["/a"] = Page(b"x" * 11)
    with pytest.raises(StoreFailed, match="more than 10 bytes"):
        Web().content(f"{site.url}/a", most=10)


def test_a_refusal_keeps_its_status_and_challenge(site: Site) -> None:
    site.pages["/a"] = Page(b"", 401, {"WWW-Authenticate": 'Basic realm="x"'})
    with pytest.raises(HttpError) as raised:
        Web().content(f"{site.url}/a")
    assert (raised.value.status, raised.value.challenge) == (401, 'Basic realm="x"')


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        7,
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "G" * 64,
        "md5:" + "0" * 32,
        "sha512:" + "0" * 64,
    ],
)
def test_what_is_no_digest(text: object) -> None:
    assert parse_digest(text) is None


def test_a_name_and_password_in_the_url_are_sent_and_stay_with_the_host(site: Site) -> None:
    with a_site() as other:
        other.pages["/blob"] = Page(b"here")
        site.pages |= {"/a": leads(f"{site.url}/b"), "/b": leads(f"{other.url}/blob")}
        Web().content(f"http://ann:pw@{site.host}/a")
    assert [headers.get("authorization") for _, headers in site.asked] == ["Basic YW5uOnB3"] * 2
    assert [headers.get("authorization") for _, headers in other.asked] == [None]


def test_nobody_is_led_to_where_clouds_hand_out_secrets(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a name, too, since the address counts that it has; the honest server is at a harmless one."""
    monkeypatch.setattr("salver.stores.sources.connecting.is_harmful", lambda address: True)
    with pytest.raises(StoreFailed, match="which is not allowed"):
        Web().content(f"{site.url}/a")
    assert site.asked == []
