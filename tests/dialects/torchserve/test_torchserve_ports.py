"""TorchServe's ports over TLS, at UNIX sockets, and with callers who read slowly; no handler behind them."""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from waiting import PATIENCE_S

from salver.dialects.torchserve.ports import exact_ports
from salver.transport.doors import Kind
from salver.transport.server import FrontConfig, listen
from salver.words.errors import Conflict, SalverError

MUCH = 4 << 20


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the scheme, or with much, in pieces."""
    await receive()
    if scope["path"] == "/much":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(MUCH >> 16):
            await send({"type": "http.response.body", "body": b"x" * (1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    body = f"{scope['scheme']} {scope['client'] is not None}".encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(serves: Kind = "torchserve-management", **config: Any) -> AsyncIterator[int]:
    (listener,) = listen(
        [app], [FrontConfig(port=0, serves=serves, grace_seconds=2, **config)], exact_ports(1000)
    )
    running = asyncio.create_task(listener.run())
    await listener.started()
    try:
        yield listener.port
    finally:
        listener.stop()
        await running


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/") -> bytes:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return raw


def files(authority: trustme.CA, folder: Path) -> dict[str, str]:
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(folder / "key.pem")
    for blob in own.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}


@pytest.mark.clause("TS-P1", "TS-C5")
async def test_a_port_over_tls_and_one_that_wants_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = files(authority, tmp_path)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(**pem) as port:
        raw = await ask(
            *await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
        )
        assert raw.endswith(b"https True")
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert (await ask(reader, writer)).endswith(b"https True")
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=ssl.create_default_context(), server_hostname="localhost"
            )
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in await ask(*await asyncio.open_connection("127.0.0.1", port))
    async with serving(**pem, tls_client_ca=str(tmp_path / "ca.pem")) as port:
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            connection = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
            )
            assert await ask(*connection) == b""
        authority.issue_cert("caller@localhost").configure_cert(trusting)
        raw = await ask(
            *await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
        )
        assert raw.endswith(b"https True")
    with pytest.raises(SalverError, match="cannot be read"):
        listen(
            [app],
            [FrontConfig(port=0, serves="torchserve-all", tls_cert="/nowhere", tls_key="/nowhere")],
            exact_ports(1000),
        )


@pytest.mark.clause("TS-C1")
async def test_a_port_that_is_taken_is_told_by_its_key() -> None:
    async with serving() as port:
        with pytest.raises(Conflict, match="management_address") as caught:
            listen([app], [FrontConfig(port=port, serves="torchserve-management")], exact_ports(1000))
        assert caught.value.field == "management_address"


@pytest.mark.clause("TS-P1")
async def test_a_port_at_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "own")
    async with serving(path=path):
        assert (await ask(*await asyncio.open_unix_connection(path))).endswith(b"http False")


@pytest.mark.clause("TS-P1")
async def test_http_2_is_answered_however_long_the_path_of_temporary_files_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    async with serving("torchserve-inference") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        settings = b"\0\0\0\x04\0\0\0\0\0"  # none, which both sides begin with
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        assert (await reader.readexactly(9))[3:5] == settings[3:5]
        writer.close()


async def test_an_answer_in_pieces_waits_for_a_caller_who_reads_slowly() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
        asking = asyncio.create_task(ask(reader, writer, "/much"))
        raw = await asking
    assert raw.count(b"x") >= MUCH and raw.endswith(b"\r\n0\r\n\r\n")
