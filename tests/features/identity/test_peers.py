"""Facts about the other ends of connections, and the claims of certificates."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from salver.features.identity.peers import (
    CERTIFICATE,
    PROXY,
    Proxies,
    claims_of_certificate,
    facts,
)
from salver.features.identity.rules import Proxy
from salver.transport.forward import Forwarding
from salver.transport.http1_head import Heads
from salver.transport.http2_head import Http2Heads
from salver.transport.terms import Terms


def transport(peer: object, *, is_unix: bool = False, certificate: bytes = b"") -> asyncio.BaseTransport:
    family = socket.AF_UNIX if is_unix else socket.AF_INET
    known: dict[str, Any] = {"peername": peer, "socket": SimpleNamespace(family=family)}
    if certificate:
        known["ssl_object"] = SimpleNamespace(getpeercert=lambda *, binary_form: certificate)
    return cast(asyncio.BaseTransport, SimpleNamespace(get_extra_info=known.get))


def der(leaf: trustme.LeafCert) -> bytes:
    return load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)


def test_only_a_trusted_address_is_a_proxy() -> None:
    proxies = Proxies([Proxy(("10.0.0.0/8", "::1"), {"sub": "x-user"})])
    assert facts(transport(("10.1.2.3", 5)), proxies) == ((PROXY, b"10.1.2.3"),)
    assert facts(transport(("::ffff:10.1.2.3", 5, 0, 0)), proxies) == ((PROXY, b"::ffff:10.1.2.3"),)
    assert facts(transport(("fe80::1%eth0", 5, 0, 2)), proxies) == ()
    for gone in (("11.0.0.1", 5), None, ""):
        assert facts(transport(gone), proxies) == ()
    assert facts(transport("", is_unix=True), proxies) == ()
    unix = Proxies([Proxy(("unix",), {"sub": "x-user"})])
    assert facts(transport("", is_unix=True), unix) == ((PROXY, b""),)
    assert facts(transport(None), unix) == (), "a caller who is gone came by TCP, too"


def test_facts_stand_behind_the_headers_and_are_not_passed_on() -> None:
    told = ((CERTIFICATE, b"der"), (PROXY, b"::1"))
    head = Heads(told).parse(b"GET / HTTP/1.1\r\nhost: a\r\nX-One: 1")
    assert head is not None
    assert head.headers == ((b"host", b"a"), (b"x-one", b"1"), *told)
    assert head.spelled == ((b"host", b"a"), (b"X-One", b"1"))
    over_http2 = Http2Heads(told).read(b"\x82\x86\x84\x41\x01a")
    assert over_http2 is not None
    assert over_http2.headers == ((b"host", b"a"), *told)
    assert over_http2.spelled == ((b"host", b"a"),)
    assert Forwarding(".*").parameters(dict(head.headers)).keys() == {"host", "x-one"}


def test_connections_with_other_facts_share_no_heads() -> None:
    terms = Terms(cast(Any, None))
    assert terms.of(transport(None)) is terms
    terms.peers = lambda connection: ((PROXY, connection.get_extra_info("peername")),)
    first, second = terms.of(transport(b"a")), terms.of(transport(b"b"))
    assert first is terms.of(transport(b"a")) and first is not second is not terms
    assert first.heads is not second.heads and first.open is second.open is terms.open
    for number in range(1000):
        terms.of(transport(b"%d" % number))
    assert len(terms._by_facts) <= 256


def test_claims_of_a_certificate() -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert(
        "web.example.org", "10.0.0.7", "ann@example.org", common_name="web", organization_name="A, Inc"
    )
    found = claims_of_certificate(der(leaf))
    assert found is not None
    assert (found["cn"], found["o"]) == (["web"], ["A, Inc"])
    assert found["san"] == ["DNS:web.example.org", "IP:10.0.0.7", "email:ann@example.org"]
    assert found["subject"] == found["sub"] and "O=A\\, Inc" in found["subject"]
    assert len(found["fingerprint"]) == 64


@pytest.mark.parametrize("odd", [b"", b"der", b"\x30\x80" + b"\x00" * 50])
def test_a_certificate_that_cannot_be_read_names_nobody(odd: bytes) -> None:
    assert claims_of_certificate(odd) is None
