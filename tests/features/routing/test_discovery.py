"""Instances that follow the addresses of a name."""

import asyncio
import sys
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest
from zoo import write_mlp

from salver.features.routing.discovering import addresses, look_of, resolve, service_records
from salver.features.routing.document import Document, InstanceTable
from salver.features.routing.engine import RoutedModel
from salver.features.routing.loading import InstancesLoader
from salver.testing.process import ServerProcess
from salver.words.artifacts import Manifest
from salver.words.errors import MissingExtra, Unsupported
from salver.words.messages import ModelId


def test_addresses_of_both_families() -> None:
    async def both(host: str) -> list[str]:
        assert host == "models.example"
        return ["10.0.0.5", "fd00::5"]

    found = asyncio.run(addresses("http://models.example:8000", both))
    assert found == ["http://10.0.0.5:8000", "http://[fd00::5]:8000"]
    assert asyncio.run(addresses("http://models.example", both))[0] == "http://10.0.0.5:80"


def test_names_are_resolved() -> None:
    assert "127.0.0.1" in asyncio.run(resolve("localhost"))
    with pytest.raises(OSError):
        asyncio.run(resolve("nobody.invalid"))


class NameServer(asyncio.DatagramProtocol):
    """Name server with the SRV records of one service.

    Args:
        records: As in a zone file: priority, weight, port and target.
    """

    def __init__(self, records: list[str]) -> None:
        self._records = records

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        if query.question[0].name.to_text() == "_http._tcp.models.example." and self._records:
            answer.answer = [dns.rrset.from_text(query.question[0].name, 5, "IN", "SRV", *self._records)]
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), addr)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (
            ["20 0 8000 c.example.", "10 50 8001 a.example.", "10 200 8002 b.example."],
            [
                InstanceTable("http://a.example:8001", 0.25, 0),
                InstanceTable("http://b.example:8002", 1.0, 0),
                InstanceTable("http://c.example:8000", 0.005, 1),
            ],
        ),
        (["0 0 0 ."], "there is no such service"),
        ([], "does not exist"),
    ],
)
async def test_srv_records_have_ports_weights_and_priorities(
    records: list[str], found: list[InstanceTable] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(records), ("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    try:
        if isinstance(found, str):
            with pytest.raises(OSError, match=found):
                await service_records("_http._tcp.models.example")
        else:
            tables = await service_records("_http._tcp.models.example")
            assert sorted(tables, key=lambda table: table.url) == found
    finally:
        transport.close()


async def test_srv_records_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(MissingExtra, match="dnspython"):
        await service_records("_http._tcp.models.example")


def test_the_servers_of_a_ledger_need_a_ledger() -> None:
    with pytest.raises(Unsupported, match="has no ledger"):
        look_of(Document(discover="ledger:"), "sum", resolve, None)


def test_instances_come_and_go_and_stay_when_nobody_answers(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    folder = tmp_path / "mlp"
    folder.mkdir()
    known: list[str] | OSError = ["127.0.0.1"]

    async def told(host: str) -> list[str]:
        if isinstance(known, OSError):
            raise known
        return known

    async def follow(port: int) -> None:
        nonlocal known
        (folder / "instances.toml").write_text(
            f'discover = "http://models.example:{port}"\ndiscover_s = 0.01\ncheck_s = 0.01\n'
        )
        loader = InstancesLoader(lambda ran: None, lambda: 0.0, {}.get, told)
        manifest = Manifest(ModelId("mlp", "1"), folder, "instances", "instances")
        servable = await loader.load(manifest)
        engine = servable.engine
        assert isinstance(engine, RoutedModel)

        async def until(urls: list[str]) -> None:
            async with asyncio.timeout(60):
                while [each.url for each in engine.router.instances if not each.is_down] != urls:
                    await asyncio.sleep(0.01)

        own, other = f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"
        await until([own])
        known = ["127.0.0.1", "127.0.0.9"]  # nobody listens there: it never gets a request
        async with asyncio.timeout(60):
            while len(engine.router.instances) < 2:
                await asyncio.sleep(0.01)
        await until([own])
        assert set(engine.clients) == {own, f"http://127.0.0.9:{port}"}
        known = OSError("no answer")
        await asyncio.sleep(0.05)
        assert len(engine.router.instances) == 2
        known = ["127.0.0.1"]
        async with asyncio.timeout(60):
            while len(engine.router.instances) > 1:
                await asyncio.sleep(0.01)
        assert set(engine.clients) == {own} and other not in engine.clients
        await servable.close()
        assert loader.models == ()

    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        asyncio.run(follow(server.wait_ready().port))
