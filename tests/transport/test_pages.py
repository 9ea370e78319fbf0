"""Static pages, as a browser asks for them."""

from typing import NamedTuple

from asgi_calls import Reply, call

from salver.transport.pages import Pages


class Text(NamedTuple):
    content_type: str
    body: bytes


FILES = {"index.html": Text("text/html; charset=utf-8", b"<p>"), "a.js": Text("text/javascript", b"1")}


def ask(target: str, verb: str = "GET", **headers: str) -> Reply:
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    return call(Pages("/console", lambda: FILES), verb, target, headers=given)


def test_files_with_their_types() -> None:
    assert (ask("/console/").body, ask("/console/").headers["content-type"]) == (
        b"<p>",
        "text/html; charset=utf-8",
    )
    assert ask("/console/a.js").headers["content-type"] == "text/javascript"


def test_the_root_without_its_slash() -> None:
    reply = ask("/console")
    assert (reply.status, reply.headers["location"]) == (308, "/console/")


def test_a_browser_asks_whether_they_are_the_newest() -> None:
    first = ask("/console/a.js")
    assert first.headers["cache-control"] == "no-cache"
    again = ask("/console/a.js", if_none_match=f'"x", W/{first.headers["etag"]}')
    assert (again.status, again.body) == (304, b"")
    assert ask("/console/", if_none_match=first.headers["etag"]).status == 200


def test_nothing_else_is_there() -> None:
    for path in ("/console/b.js", "/console/../a.js", "/console//a.js", "/console/a.js/"):
        assert ask(path).status == 404
    assert ask("/console/", "POST").status == 405
    head = ask("/console/", "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "3")


def test_every_answer_keeps_scripts_and_requests_at_home() -> None:
    for reply in (ask("/console/"), ask("/console"), ask("/console/b.js"), ask("/console/", "PUT")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
