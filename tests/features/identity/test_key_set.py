"""Sets of keys from a file and from a host that hangs, lies or redirects."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from issuing import AUDIENCE, ISSUER, KEYS, OTHER_RSA, jwks, public_jwk

from salver.features.identity import key_set
from salver.features.identity.key_set import KeySource, check_url, fetched
from salver.features.identity.rules import Issuer
from salver.words.errors import InvalidInput

DAY = 24 * 3600.0
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def host(said: bytes | Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A host that says the same to everybody, and the heads of those who asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if isinstance(said, bytes):
            writer.write(said)
        else:
            await said(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?v=1", asked
    finally:
        server.close()


async def test_keys_come_by_http() -> None:
    async with host(answer(jwks())) as (url, asked):
        assert await fetched(url, "") == jwks()
        assert asked[0].startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
        assert b"\r\nhost: 127.0.0.1:" in asked[0].lower()
    size = f"{len(jwks()):x}\r\n".encode()
    pieces = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + size + jwks() + b"\r\n0\r\n\r\n"
    async with host(pieces) as (url, _):
        assert await fetched(url, "") == jwks()


async def test_a_host_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    for name, each in (("ca", authority), ("other", other)):
        each.cert_pem.write_to_path(tmp_path / name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(jwks()))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    async with server:
        assert await fetched(url, str(tmp_path / "ca")) == jwks()
        for ca in (str(tmp_path / "other"), ""):
            with pytest.raises(OSError, match="certificate verify failed"):
                await fetched(url, ca)


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each byte comes in time, and all of them never."""
    for byte in answer(jwks()) * 10:
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.01)


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(500):
        writer.write(b" " * (1 << 16))
        await writer.drain()


LIES: dict[str, bytes | Answer] = {
    "drips": drips,
    "hangs": hangs,
    "floods": floods,
    "says a large length": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + jwks(),
    "redirects": answer(b"", "302 Found", "location: http://127.0.0.1:9/keys\r\n"),
    "redirects to a file": answer(b"", "301 Moved", "location: file:///etc/passwd\r\n"),
    "fails": answer(jwks(), "500 Internal Server Error"),
    "speaks no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "says nothing": b"",
    "sends a page": answer(b"<html>sign in</html>"),
    "sends no keys": answer(b'{"keys":[]}'),
    "sends none in a list": answer(b'{"keys":{"kid":1}}'),
    "sends something else": answer(b"[1]"),
    "nests": answer(b"[" * 100_000),
    "sends a shared key": answer(jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "RS256"})),
    "sends a private key": answer(jwks({**public_jwk(OTHER_RSA, "RS256", "RS256"), "d": "AQAB"})),
    "sends half a key": answer(jwks({"kty": "RSA", "kid": "RS256", "n": "AQAB"})),
    "sends too many": answer(jwks(*[public_jwk(OTHER_RSA, "RS256", str(n)) for n in range(65)])),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_host_that_lies_or_hangs_changes_nothing(
    lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "_FETCH_S", 0.3)
    now, is_honest = 0.0, True

    async def fetch(url: str, ca: str) -> bytes:
        return jwks() if is_honest else await fetched(url, ca)

    async with host(LIES[lie]) as (url, asked):
        source = KeySource(issuer(url), tmp_path, lambda: now, fetch)
        assert await source.look()
        before, now, is_honest = source.keys, 300.0, False
        with pytest.raises((InvalidInput, OSError)):
            await source.look()
        assert source.keys == before
        assert source.find("RS256", "RS256") is not None
        now = 310.0
        assert not await source.look(), "it is not asked again at once"
        assert len(asked) == 1
        now = 300.0 + DAY
        with pytest.raises((InvalidInput, OSError)):
            await source.look()
        assert not source.keys, "nobody vouches for keys for longer than a day"


def issuer(url: str = "https://login.example.org/keys") -> Issuer:
    return Issuer(ISSUER, AUDIENCE, ("RS256",), url)


class Fetch:
    """A fetch that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.data = jwks(public_jwk(KEYS["RS256"], "RS256", "old"))

    async def __call__(self, url: str, ca: str) -> bytes:
        self.count += 1
        return self.data


async def test_keys_are_fetched_again_at_intervals_and_for_one_that_is_unknown(tmp_path: Path) -> None:
    now, fetch = 0.0, Fetch()
    source = KeySource(issuer(), tmp_path, lambda: now, fetch)
    assert await source.look()
    while (now := now + 1) < 300:
        assert not await source.look()
    assert fetch.count == 1
    now = 300.0
    assert not await source.look(), "they are the same"
    assert fetch.count == 2
    fetch.data = jwks(public_jwk(OTHER_RSA, "RS256", "new"))
    for number in range(10_000):  # unknown ids, each of which a token names
        assert source.find(f"unknown-{number}", "RS256") is None
        now += 0.01
        await source.look()
    assert fetch.count == 2 + 100 // 30
    assert source.find("new", "RS256") is not None
    assert source.find("old", "RS256") is None


async def test_a_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(b" " * (300 << 10))
    source = KeySource(issuer("jwks.json"), tmp_path)
    with pytest.raises(InvalidInput, match="more than"):
        await source.look()
    (tmp_path / "jwks.json").unlink()
    with pytest.raises(OSError):
        await KeySource(issuer("jwks.json"), tmp_path).look()


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.org/keys", "file:///etc/passwd", "ftp://h/k", "https://", "https://u:p@h/k",
        "http://[::1", "https://h:x/k", "gopher://127.0.0.1/",
    ],
)  # fmt: skip
def test_keys_come_by_https_only(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"https|no URL"):
        check_url(url)
    assert check_url("http://[::1]:8000/k").port == 8000
