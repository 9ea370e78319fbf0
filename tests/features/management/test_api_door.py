"""The management interface as a caller sees it, without a socket."""

from typing import Any

import msgspec
import orjson
import pytest
from asgi_calls import Reply, call

from salver.features.management.door import Management
from salver.features.management.faults import api_fault
from salver.transport.access_check import OUTCOMES, Access, Caller
from salver.transport.operations import Answer, Api, ApiRequest, Operation
from salver.transport.pages import Sites
from salver.words.errors import Code, NotFound, Outdated, Overloaded, SalverError, Unauthenticated

JSON = {"content-type": "application/json"}


class Thing(msgspec.Struct):
    name: str
    actor: str = ""


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    reason: str


async def tell(asked: ApiRequest) -> Answer:
    match asked.names["thing"]:
        case "none":
            raise NotFound("there is no thing 'none'", field="thing")
        case "broken":
            raise ZeroDivisionError
        case name:
            return Answer(Thing(name))


async def change(asked: ApiRequest) -> Answer:
    if asked.expected and "7" not in asked.expected:
        raise Outdated("the thing is at 7 by now")
    return Answer(Thing(asked.body.reason, asked.caller.name), etag="8")


async def other(scope: Any, receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 204, "headers": [(b"x-who", scope["path"].encode())]}
    )
    await send({"type": "http.response.body", "body": b""})


class Site:
    root = "/console"
    __call__ = staticmethod(other)


SITES = Sites(Site())

API = Api(
    [
        Operation("tell", "GET", "/things/{thing}", "One", tell, Thing),
        Operation(
            "change",
            "PUT",
            "/things/{thing}",
            "Another",
            change,
            Thing,
            Wish,
            changes=True,
            is_conditional=True,
        ),
        Operation("wish", "POST", "/wishes", "A third", change, Thing, Wish, changes=True),
        Operation("post", "POST", "/outcomes", "A fourth", change, Thing, Wish, changes=True, role=OUTCOMES),
    ]
)


def ask(verb: str, target: str, body: bytes = b"", host: str = "127.0.0.1", **headers: str) -> Reply:
    app = Management(other, API, Access(host), SITES, lambda: "id7", "1.0")
    return call(app, verb, target, body, {name.replace("_", "-"): text for name, text in headers.items()})


def put(document: object, **headers: str) -> Reply:
    return ask(
        "PUT", "/api/v1/things/a", orjson.dumps(document), **{"content_type": "application/json", **headers}
    )


def test_an_answer() -> None:
    reply = ask("GET", "/api/v1/things/a%2Fb")
    assert (reply.status, reply.json) == (200, {"name": "a/b", "actor": ""})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-cache"
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_what_has_not_changed_is_not_sent_again() -> None:
    tag = ask("GET", "/api/v1/things/a").headers["etag"]
    again = ask("GET", "/api/v1/things/a", if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask("GET", "/api/v1/things/b", if_none_match=tag).status == 200
    for header in (f'"other", W/{tag}', "*"):
        assert ask("GET", "/api/v1/things/a", if_none_match=header).status == 304
    described = ask("GET", "/api/openapi.json")
    assert ask("GET", "/api/openapi.json", if_none_match=described.headers["etag"]).status == 304


def test_heads_have_no_body() -> None:
    whole, head = ask("GET", "/api/v1/things/a"), ask("HEAD", "/api/v1/things/a")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == whole.headers


def test_a_change_and_who_made_it() -> None:
    reply = put({"reason": "better"}, x_salver_actor="ada")
    assert (reply.status, reply.json, reply.headers["etag"]) == (
        200,
        {"name": "better", "actor": "api:ada"},
        '"8"',
    )
    assert put({"reason": "better"}, x_salver_actor="a\nb").json["actor"] == "api"


def test_a_change_of_a_state_that_is_no_longer_there() -> None:
    assert put({"reason": "r"}, if_match='"7"').status == 200
    assert put({"reason": "r"}, if_match='"6", W/"7"').status == 200
    stale = put({"reason": "r"}, if_match='"6"')
    assert (stale.status, stale.json["detail"]) == (412, "the thing is at 7 by now")


def test_problems_name_the_field_and_the_fix() -> None:
    reply = put({"cause": "r"})
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json == {
        "type": "urn:salver:problem:invalid_input",
        "title": "Invalid input",
        "status": 400,
        "detail": reply.json["detail"],
        "field": "body",
        "fix": "Fields: reason.",
    }


@pytest.mark.parametrize(
    ("verb", "target", "status"),
    [
        ("GET", "/api/v1/things/none", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/", 404),
        ("POST", "/api/v1/things/a", 405),
        ("GET", "/api/v1/things/a?b=c", 400),
        ("GET", "/api/v1/things/%ff", 400),
        ("PUT", "/api/v1/things/a", 400),
        ("OPTIONS", "/api/v1/nothing", 404),
        ("POST", "/api/openapi.json", 405),
    ],
)
def test_what_does_not_go(verb: str, target: str, status: int) -> None:
    reply = ask(verb, target)
    assert (reply.status, reply.json["status"]) == (status, status)


def test_what_a_path_takes() -> None:
    told = ask("OPTIONS", "/api/v1/things/a")
    assert (told.status, told.headers["allow"], told.body) == (200, "GET, HEAD, OPTIONS, PUT", b"")
    assert ask("TRACE", "/api/v1/things/a").headers["allow"] == "GET, HEAD, OPTIONS, PUT"
    assert ask("DELETE", "/api/openapi.json").headers["allow"] == "GET, HEAD"
    assert not any(name.startswith("access-control") for name in told.headers)


def test_a_condition_that_nobody_minds_is_refused_rather_than_ignored() -> None:
    body = orjson.dumps({"reason": "r"})
    refused = ask("POST", "/api/v1/wishes", body, content_type="application/json", if_match='"7"')
    assert (refused.status, refused.json["field"]) == (400, "if-match")


@pytest.mark.parametrize("origin", ["http://[::1", "http://[evil", "null", "é", "://", "http://"])
def test_an_origin_that_is_none_is_foreign(origin: str) -> None:
    assert put({"reason": "r"}, origin=origin).status == 403


def test_what_tells_a_secret_is_kept_nowhere() -> None:
    assert put({"reason": "r"}).headers["cache-control"] == "no-store"
    for headers in (put({"reason": "r"}).headers, ask("GET", "/api/v1/things/a").headers):
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_token_for_outcomes_posts_outcomes_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def known(token: str) -> Caller:
        if token == "nobodys-token":
            raise Unauthenticated("nobody's")
        return Caller("shop", frozenset(token.split("+")))

    def post(path: str, token: str) -> Reply:
        app = Management(other, API, Access("0.0.0.0", read_token=known), SITES, lambda: "id7", "1.0")
        headers = {"authorization": f"Bearer {token}", **JSON}
        return call(app, "POST", path, b'{"reason":"r"}', headers)

    assert post("/api/v1/outcomes", "outcomes").json == {"name": "r", "actor": "shop"}
    refused = post("/api/v1/wishes", "outcomes")
    assert (refused.status, refused.json["field"]) == (403, "authorization")
    assert [post("/api/v1/wishes", token).status for token in ("outcomes+release", "release")] == [200, 200]
    assert post("/api/v1/outcomes", "release").status == 200
    assert post("/api/v1/wishes", "nobodys-token").status == 401
    assert "request without a valid token to wish" in caplog.text
    assert "nobodys-token" not in caplog.text


def test_a_defect_is_an_incident_and_tells_nothing() -> None:
    reply = ask("GET", "/api/v1/things/broken")
    assert (reply.status, reply.json["detail"]) == (
        500,
        "internal error, incident id7; the log has the cause",
    )


def test_bodies_are_bounded() -> None:
    big = b'{"reason":"' + b"x" * (1 << 20) + b'"}'
    refused = ask("PUT", "/api/v1/things/a", big, content_type="application/json")
    assert (refused.status, refused.json["field"]) == (413, "body")
    assert "1048576 bytes" in refused.json["detail"]


def test_all_else_goes_on() -> None:
    for path in ("/", "/v2/models/api/infer", "/api", "/apis/x", "/consoles/predict"):
        assert ask("GET", path).headers["x-who"] == path


def test_the_console_is_for_those_who_mean_this_machine() -> None:
    assert ask("GET", "/console/").headers["x-who"] == "/console/"
    assert ask("GET", "/console").headers["x-who"] == "/console"
    assert ask("GET", "/console/", host="127.0.0.1", **{"host_": ""}).status == 204


def test_the_console_is_not_shown_to_other_names() -> None:
    app = Management(other, API, Access("127.0.0.1"), SITES, lambda: "id7", "1.0")
    assert call(app, "GET", "/console/", headers={"host": "evil.example.org"}).status == 403
    assert call(app, "GET", "/api/openapi.json", headers={"host": "evil.example.org"}).status == 403


def test_the_description() -> None:
    paths = ask("GET", "/api/openapi.json").json["paths"]
    assert set(paths) == {"/api/v1/things/{thing}", "/api/v1/wishes", "/api/v1/outcomes"}


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_has_a_problem(code: Code) -> None:
    error = SalverError("lone \ud800 surrogate", field="f", fix="Mend it.")
    error.code = code
    reply = api_fault(error)
    told = orjson.loads(reply.body)
    assert told["status"] == reply.status >= 400
    assert told["type"] == f"urn:salver:problem:{code}"


def test_when_to_come_back() -> None:
    headers = dict(api_fault(Overloaded("full", retry_after=2.5)).headers)
    assert headers[b"retry-after"] == b"3"
    assert headers[b"content-type"] == b"application/problem+json"
