"""Keys on a server whose TorchServe ports need TorchServe's own tokens."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from access_world import Asking, KeyRing, Ports, message, serving

from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.transport.doors import Kind

MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


class World(NamedTuple):
    ports: Ports
    ring: KeyRing
    own: dict[str, str]

    async def ask(self, kind: Kind, verb: str, path: str, key: str, body: bytes = b"") -> int | str:
        """Status of the second answer, for which the head is known."""
        for _ in range(2):
            said = await self.ports.ask(Asking(kind, verb, path, "infer", message=body), key)
        return said.status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    ring = KeyRing(tmp_path / "keys.toml")
    (tmp_path / "store").mkdir()
    handlers = HandlerStoreConfig(ArchiveStoreConfig(str(tmp_path / "store")), is_open=True)
    rules = TorchServeRules(tokens=TokenRules(str(tmp_path / "key_file.json")))
    async with serving(tmp_path, ring.path, torchserve={"handlers": handlers, "rules": rules}) as ports:
        content = msgspec.json.decode((tmp_path / "key_file.json").read_bytes())
        yield World(ports, ring, {name: content[name]["key"] for name in ("inference", "management", "API")})


PREDICT = ("torchserve-inference", "POST", "/predictions/mlp")
LIST = ("torchserve-management", "GET", "/models")
UNREGISTER = ("torchserve-management", "DELETE", "/models/none")


async def test_its_tokens_are_enough(world: World) -> None:
    own = world.own
    assert await world.ask(*PREDICT, own["inference"]) not in (400, 401, 403)
    assert await world.ask(*LIST, own["management"]) == 200
    assert await world.ask(*UNREGISTER, own["management"]) == 404
    for ask, wrong in ((PREDICT, "management"), (LIST, "inference"), (UNREGISTER, "inference")):
        assert await world.ask(*ask, own[wrong]) == 400, "InvalidKeyException"
        assert await world.ask(*ask, "") == 400
        assert await world.ask(*ask, "nobodys") == 400
    kind: Kind = "torchserve-grpc-management"
    assert await world.ask(kind, "", f"{MANAGEMENT}ListModels", own["management"]) == "OK"
    assert await world.ask(kind, "", f"{MANAGEMENT}ListModels", own["inference"]) == "PERMISSION_DENIED"
    assert await world.ask(kind, "", f"{MANAGEMENT}ListModels", "") == "PERMISSION_DENIED"
    unregister = f"{MANAGEMENT}UnregisterModel", own["management"], message((1,), "none")
    assert await world.ask(kind, "", *unregister) not in ("PERMISSION_DENIED", "UNAUTHENTICATED")


async def test_a_key_is_as_good_within_its_scopes(world: World) -> None:
    ring = world.ring
    assert await world.ask(*PREDICT, ring.same_model) not in (400, 401, 403)
    assert await world.ask(*PREDICT, ring.other_model) == 403
    assert await world.ask(*PREDICT, ring.without["infer"]) == 403
    assert await world.ask(*LIST, ring.everything) == 200
    assert await world.ask(*LIST, ring.without["read"]) == 403
    assert await world.ask(*UNREGISTER, ring.everything) == 404
    assert await world.ask(*UNREGISTER, ring.without["models"]) == 403
    for ask in (PREDICT, LIST, UNREGISTER):
        assert await world.ask(*ask, ring.revoked) == 400, "of which nothing is told, in its own words"
        assert await world.ask(*ask, ring.expired) == 400
    kind: Kind = "torchserve-grpc-management"
    path = f"{MANAGEMENT}ListModels"
    assert await world.ask(kind, "", path, ring.everything) == "OK"
    assert await world.ask(kind, "", path, ring.without["read"]) == "PERMISSION_DENIED"
    assert await world.ask(kind, "", path, ring.revoked) == "PERMISSION_DENIED"
    predict = f"{INFERENCE}Predictions"
    for name, is_refused in (("same_model", False), ("other_model", True)):
        said = await world.ask("torchserve-grpc-inference", "", predict, getattr(ring, name), message((1,)))
        assert (said == "PERMISSION_DENIED") == is_refused
