"""Which operation is meant, and does a request fit it?"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.management.openapi import describe
from salver.features.releases.release_operations import outcome_operations
from salver.kernel.serving.decoding import LARGE, Decoders
from salver.transport.operations import (
    Answer,
    Api,
    ApiRequest,
    NoQuery,
    Operation,
    Page,
    PageQuery,
    read_body,
    read_query,
)
from salver.words.errors import InvalidInput, NoRoute, WrongVerb
from salver.words.releases import Outcome, Receipt


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    share: float


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody wants."""

    reason: Annotated[str, msgspec.Meta(max_length=8)]
    inner: Inner | None = None


async def nothing(asked: ApiRequest) -> Answer:
    return Answer(None)


LIST = Operation("list", "GET", "/models", "All", nothing, Page[Inner], query=PageQuery)
ONE = Operation("one", "GET", "/models/{model}", "One", nothing, Inner)
OWN = Operation("own", "GET", "/models/own", "A literal path", nothing, Inner)
SET = Operation("set", "PUT", "/models/{model}/aliases/{alias}", "Move", nothing, Inner, Wish, changes=True)
API = Api([LIST, ONE, SET, OWN])


def test_paths_and_the_names_in_them() -> None:
    assert API.find("GET", "/api/v1/models") == (LIST, {})
    assert API.find("HEAD", "/api/v1/models/a%2Fb%C3%A9") == (ONE, {"model": "a/bé"})
    assert API.find("PUT", "/api/v1/models/m/aliases/live") == (SET, {"model": "m", "alias": "live"})


def test_a_literal_goes_before_a_name() -> None:
    assert API.find("GET", "/api/v1/models/own")[0] is OWN


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/", "/api/v1/models/", "/api/v2/models", "/api/v1/models//x"]
)
def test_no_such_path(path: str) -> None:
    with pytest.raises(NoRoute, match="openapi"):
        API.find("GET", path)


def test_a_wrong_verb_names_the_right_ones() -> None:
    with pytest.raises(WrongVerb, match="takes OPTIONS, PUT, not DELETE"):
        API.find("DELETE", "/api/v1/models/m/aliases/live")


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        API.find("GET", "/api/v1/models/%ff")


def test_two_operations_at_one_place_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two operations"):
        Api([ONE, msgspec.structs.replace(ONE, path="/models/{name}")])


def test_bodies_become_records() -> None:
    assert read_body(SET, b'{"reason":"why","inner":{"share":1}}') == Wish("why", Inner(1.0))
    assert read_body(LIST, b"") is None
    assert read_body(LIST, b" {} ") is None


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b'{"reason":"why","share":1}', "body", "share"),
        (b'{"reason":"much too long"}', "body.reason", "length"),
        (b'{"reason":"a","inner":{"share":"x"}}', "body.inner.share", "float"),
        (b"{}", "body", "reason"),
        (b"", "body", "reason"),
        (b"[1]", "body", "object"),
        (b"{", "body", "JSON"),
        (b'{"reason":"\xff"}', "body", ""),
        (b"[" * 100_000, "body", ""),
    ],
    ids=["unknown", "long", "kind", "missing", "empty", "list", "cut", "bytes", "deep"],
)
def test_a_body_that_does_not_fit_is_told_where(body: bytes, field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_body(SET, body)
    assert caught.value.field == field
    assert words in caught.value.message


def test_the_error_names_the_fields_that_there_are() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_body(SET, b'{"cause":"x"}')
    assert caught.value.fix == "Fields: reason, inner."
    with pytest.raises(InvalidInput) as caught:
        read_body(SET, b'{"reason":"x","inner":{"alpa":1}}')
    assert caught.value.field == "body.inner"
    assert caught.value.fix == "See /api/openapi.json for its form."


def test_an_operation_without_a_body_takes_none() -> None:
    with pytest.raises(InvalidInput, match="takes no body"):
        read_body(LIST, b'{"limit":1}')


def test_queries_become_records() -> None:
    assert read_query(LIST, b"limit=7&after=x%20y") == PageQuery(7, "x y")
    assert read_query(LIST, b"") == PageQuery()
    assert read_query(ONE, b"") == NoQuery()


@pytest.mark.parametrize(
    "text",
    [
        b"limit=x",
        b"limit=0",
        b"limit=1001",
        b"offset=1",
        b"limit=1&limit=2",
        b"&".join([b"a=1"] * 40),
        b"a=\xff",
    ],
    ids=["number", "low", "high", "unknown", "twice", "many", "bytes"],
)
def test_a_query_that_does_not_fit(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_query(LIST, text)


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_record_or_a_refusal(body: bytes) -> None:
    for read in (read_body, read_query):
        try:
            assert isinstance(read(SET, body), Wish | NoQuery)
        except InvalidInput as error:
            assert error.field


def test_the_description_is_made_of_the_records() -> None:
    document = describe(API.operations, "1.2")
    assert set(document["paths"]) == {
        "/api/v1/models",
        "/api/v1/models/{model}",
        "/api/v1/models/own",
        "/api/v1/models/{model}/aliases/{alias}",
    }
    set_alias = document["paths"]["/api/v1/models/{model}/aliases/{alias}"]["put"]
    assert [p["name"] for p in set_alias["parameters"]] == ["model", "alias"]
    assert set_alias["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Wish")
    assert document["components"]["schemas"]["Wish"]["properties"]["reason"]["maxLength"] == 8
    listed = document["paths"]["/api/v1/models"]["get"]
    assert {p["name"]: p["in"] for p in listed["parameters"]} == {"limit": "query", "after": "query"}
    assert "security" not in listed
    assert set_alias["security"]


async def test_a_large_body_is_parsed_elsewhere_and_is_the_same() -> None:
    decoders = Decoders()
    api = Api(outcome_operations(Taker()), decoders)
    operation, _ = api.find("POST", "/api/v1/outcomes")
    few, many = (
        msgspec.json.encode({"outcomes": [{"id": f"o{number}", "name": "sale"} for number in range(count)]})
        for count in (5000, 5001)
    )
    assert len(few) > LARGE
    try:
        assert await api.record(operation, few) == read_body(operation, few)
        with pytest.raises(InvalidInput) as here:
            read_body(operation, many)
        with pytest.raises(InvalidInput) as caught:
            await api.record(operation, many)
        assert (str(caught.value), caught.value.about) == (str(here.value), here.value.about)
        assert repr(decoders).count("not started") == 1
    finally:
        decoders.close()


class Taker:
    async def accept(self, outcomes: Sequence[Outcome]) -> Receipt:
        return Receipt(len(outcomes))
