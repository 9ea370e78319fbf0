"""Who says for whom a request is: headers first for the tenant, the request first for the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.serving.standing import ANY_TENANT, from_headers, from_parameters
from salver.words.errors import InvalidInput
from salver.words.messages import ANYBODY, Standing


@pytest.mark.parametrize(
    ("headers", "standing"),
    [
        ({}, ANYBODY),
        ({b"accept": b"*/*"}, ANYBODY),
        ({b"x-tenant": b""}, ANYBODY),
        ({b"x-tenant": b"a b/c"}, Standing("a b/c")),
        ({b"x-tenant": b"a" * 128}, Standing("a" * 128)),
        ({b"x-priority": b" 7 "}, Standing("", 7)),
        ({b"x-priority": b"4294967296"}, Standing("", 1 << 32)),
        ({b"x-service-class": b"urgent"}, Standing(service="urgent")),
        ({b"x-tenant": b"t", b"x-priority": b"0", b"x-service-class": b"bulk"}, Standing("t", 0, "bulk")),
    ],
)
def test_headers(headers: dict[bytes, bytes], standing: Standing) -> None:
    assert from_headers(headers, b"x-tenant") == standing


def test_without_a_tenant_header_nothing_names_the_tenant() -> None:
    assert from_headers({b"x-tenant": b"t", b"": b"u"}, b"") is ANYBODY


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"x-tenant", b"a" * 129),
        (b"x-tenant", b"a\x00"),
        (b"x-tenant", b"\xff"),
        (b"x-priority", b""),
        (b"x-priority", b"-1"),
        (b"x-priority", b"1.0"),
        (b"x-priority", b"4294967297"),
        (b"x-priority", b"9" * 5000),
        (b"x-priority", "²".encode("latin-1")),
        (b"x-service-class", b"Urgent"),
        (b"x-service-class", b""),
    ],
)
def test_a_wrong_header_is_named_with_what_to_send(header: bytes, value: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_headers({header: value}, b"x-tenant")
    assert caught.value.field == header.decode()
    assert caught.value.fix.startswith("Send ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tenant", 7),
        ("tenant", "é"),
        ("tenant", "a\n"),
        ("tenant", "a" * 129),
        ("priority", True),
        ("priority", 1.0),
        ("priority", "1"),
        ("priority", -1),
        ("priority", (1 << 32) + 1),
        ("service_class", "vip"),
        ("service_class", 1),
    ],
)
def test_a_wrong_parameter_is_named_with_what_to_send(name: str, value: int | float | str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_parameters(ANYBODY, {name: value})
    assert caught.value.field == f"parameters.{name}"
    assert caught.value.fix.startswith("Send ")


def test_a_tenant_that_a_header_names_cannot_be_talked_over() -> None:
    said = Standing("acme", 2, "bulk")
    assert from_parameters(said, {"tenant": "rival"}).tenant == "acme"
    assert from_parameters(said, {"tenant": 7}).tenant == "acme"
    assert from_parameters(ANYBODY, {"tenant": "acme"}) == Standing("acme")


def test_class_and_level_are_the_requests_own_wish() -> None:
    said = Standing("acme", 2, "bulk")
    assert from_parameters(said, {"priority": 1, "service_class": "urgent"}) == Standing("acme", 1, "urgent")
    assert from_parameters(said, {"binary_data_output": True}) == said


@given(st.dictionaries(st.sampled_from([b"x-tenant", b"x-priority", b"x-service-class"]), st.binary()))
def test_any_header_is_a_standing_or_an_error_of_ours(headers: dict[bytes, bytes]) -> None:
    try:
        standing = from_headers(headers, b"x-tenant")
    except InvalidInput as error:
        assert error.field
    else:
        assert standing.tenant.isascii() and 0 <= standing.priority <= 1 << 32


KEYS = Standing("acme", 2, "normal")


@pytest.mark.parametrize(
    ("granted", "headers", "standing"),
    [
        (ANYBODY, {}, ANYBODY),
        (Standing(ANY_TENANT), {}, ANYBODY),
        (KEYS, {}, Standing("acme", 2, "normal", KEYS)),
        (KEYS, {b"x-tenant": b"rival"}, Standing("acme", 2, "normal", KEYS)),
        (KEYS, {b"x-priority": b"3"}, Standing("acme", 3, "normal", KEYS)),
        (KEYS, {b"x-priority": b"0"}, Standing("acme", 2, "normal", KEYS)),
        (KEYS, {b"x-service-class": b"urgent"}, Standing("acme", 2, "normal", KEYS)),
        (KEYS, {b"x-service-class": b"bulk"}, Standing("acme", 2, "bulk", KEYS)),
        (ANYBODY, {b"x-tenant": b"acme"}, Standing(granted=ANYBODY)),
        (Standing(ANY_TENANT), {b"x-tenant": b"t"}, Standing("t", granted=Standing(ANY_TENANT))),
        (Standing("a", 0, "urgent"), {}, Standing("a", 0, "urgent", Standing("a", 0, "urgent"))),
    ],
)
def test_a_key_has_a_standing_that_headers_lower(
    granted: Standing, headers: dict[bytes, bytes], standing: Standing
) -> None:
    found = from_headers(headers, b"x-tenant", granted)
    assert found == standing
    assert (found is ANYBODY) == (standing is ANYBODY), "the engines' usual way"


TENANTS = st.sampled_from(["", "acme", "rival", ANY_TENANT])
LEVELS = st.integers(0, 5)
SERVICES = st.sampled_from(["urgent", "normal", "bulk"])
STANDINGS = st.builds(Standing, TENANTS, LEVELS, SERVICES)


@given(
    STANDINGS,
    st.fixed_dictionaries({}, optional={"x-tenant": TENANTS, "x-service-class": SERVICES}),
    st.none() | LEVELS,
    st.fixed_dictionaries({}, optional={"tenant": TENANTS, "priority": LEVELS, "service_class": SERVICES}),
    st.integers(1, 4),
)
def test_nothing_that_a_request_says_is_better_than_its_key(
    granted: Standing,
    texts: dict[str, str],
    level: int | None,
    parameters: dict[str, str | int],
    levels: int,
) -> None:
    headers = {name.encode(): text.encode() for name, text in texts.items()}
    if level is not None:
        headers[b"x-priority"] = b"%d" % level
    found = from_parameters(from_headers(headers, b"x-tenant", granted), parameters, granted)
    inner = from_parameters(found, parameters)  # a step of an ensemble
    default = (levels + 1) // 2
    for standing in (found, inner):
        assert granted.tenant in (standing.tenant, ANY_TENANT)
        order = ("urgent", "normal", "bulk")
        assert order.index(standing.service) >= order.index(granted.service)
        asked = standing.priority if 0 < standing.priority <= levels else default
        highest = min(granted.priority or default, levels)
        assert standing.bounded(asked, default, levels) >= highest
