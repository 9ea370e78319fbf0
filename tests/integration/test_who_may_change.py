"""Who may change something, over every protocol, at every kind of port of a real server."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import msgspec
import pytest
from dialect_tables import OPERATIONS
from registries import ANN
from splitting_server import ledgered
from tritonclient.grpc import service_pb2
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.app import Server
from salver.cli import main
from salver.client import Client
from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.features.management.serving_operations import serving_operations
from salver.transport.access_check import ApiConfig
from salver.transport.doors import Kind
from salver.transport.server import FrontConfig
from salver.words.errors import Unauthenticated

TOKEN = "an-example-token-of-a-test"
NO_TOKEN = ApiConfig()
TRITON = "/inference.GRPCInferenceService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
EVIL = "http://evil.example.org"
REBOUND = "rebound.example.org:8000"

#: Of TorchServe's REST operations that change something, how each is asked.
OF_TORCHSERVE = (
    ("POST", "/models?url=none.mar"),
    ("PUT", "/models/none?min_worker=1"),
    ("PUT", "/models/none/1.0/set-default"),
    ("DELETE", "/models/none"),
    ("POST", "/workflows?url=none.war"),
    ("DELETE", "/workflows/none"),
)
KINDS: tuple[Kind, ...] = (
    *("all", "http", "grpc", "openai", "sagemaker", "vertex-ai"),
    *("torchserve-all", "torchserve-inference", "torchserve-management", "torchserve-grpc-management"),
)


class Change(NamedTuple):
    """One request that changes something: over HTTP by verb and path, over gRPC by its path and message."""

    kind: Kind
    verb: str
    path: str
    message: bytes = b""


def _grpc_message(path: str) -> bytes:
    """A settings call without a change only reads."""
    if path.endswith("LogSettings"):
        log = service_pb2.LogSettingsRequest()
        log.settings["log_verbose_level"].uint32_param = 0
        return log.SerializeToString()  # type: ignore[no-any-return]
    if path.endswith("TraceSetting"):
        trace = service_pb2.TraceSettingRequest()
        trace.settings["trace_count"].value[:] = ["-1"]
        return trace.SerializeToString()  # type: ignore[no-any-return]
    return b""


def over_http() -> list[tuple[str, str]]:
    found = [(o.verb, re.sub(r"{\w+}", "none", o.path)) for o in OPERATIONS if o.changes]
    return [(verb, path) for verb, path in found if "{" not in path]


def changes(server: Server) -> Iterator[Change]:
    """Everything that a port can be asked to change, as the tables of the running server have it."""
    for kind in ("all", "http"):
        for verb, path in over_http():
            yield Change(kind, verb, path)  # type: ignore[arg-type]
    for verb, path in over_http():
        if path.startswith("/v1/"):
            yield Change("openai", verb, path)
    own = serving_operations(server.control, server.kernel.state, ("", ""))
    for operation in [*own, *(one for part in server.kernel.parts for one in part.operations)]:
        if operation.changes:
            yield Change("all", operation.verb, "/api/v1" + re.sub(r"{\w+}", "none", operation.path))
    for kind in ("all", "torchserve-all", "torchserve-management"):
        for verb, path in OF_TORCHSERVE:
            yield Change(kind, verb, path)  # type: ignore[arg-type]
    yield Change("sagemaker", "POST", "/models")
    yield Change("sagemaker", "DELETE", "/models/none")
    for path in server.ports._grpc.front()._changing:
        for kind in ("all", "grpc"):
            if path.startswith(TRITON) or ".serving." in path:
                yield Change(kind, "", path, _grpc_message(path))  # type: ignore[arg-type]
        if path.startswith(MANAGEMENT):
            yield Change("all", "", path)
            yield Change("torchserve-grpc-management", "", path)


class Asked:
    """Ports of one running server, by what they serve."""

    def __init__(self, server: Server, host: str, client: httpx.AsyncClient) -> None:
        self.server = server
        kinds = [config.serves for config in server.listeners.configs]
        self.ports = dict(zip(kinds, server.listeners.ports(), strict=True))
        self.host = host
        self._client = client
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    async def ask(self, change: Change, **headers: str) -> int | str:
        """The status; over gRPC the name of its code."""
        address = f"127.0.0.1:{self.ports[change.kind]}"
        if change.verb:
            kind = "application/json" if change.path.startswith("/api/") else "text/plain"
            told = {"content-type": kind, **{name.replace("_", "-"): text for name, text in headers.items()}}
            url = f"http://{address}{change.path}"
            return (await self._client.request(change.verb, url, content=b"{}", headers=told)).status_code
        channel = self._channel(address, headers.pop("host", ""))
        metadata = [(name.replace("_", "-"), text) for name, text in headers.items()]
        try:
            await channel.unary_unary(change.path)(change.message, metadata=metadata, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    def _channel(self, address: str, authority: str) -> grpc.aio.Channel:
        if (address, authority) not in self._channels:
            options = [("grpc.default_authority", authority)] if authority else []
            self._channels[address, authority] = grpc.aio.insecure_channel(address, options=options)
        return self._channels[address, authority]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def is_forbidden(outcome: int | str) -> bool:
    return outcome in (403, "PERMISSION_DENIED")


def is_unproven(outcome: int | str, change: Change) -> bool:
    """Without a token where one is needed, in the form of each protocol (TS-B11, TS-G6)."""
    if change.path.startswith(MANAGEMENT):
        return outcome == "PERMISSION_DENIED"
    is_torchserves = any(change.path == path for _, path in OF_TORCHSERVE) and change.kind != "sagemaker"
    return outcome == (400 if is_torchserves else 401) if change.verb else outcome == "UNAUTHENTICATED"


@asynccontextmanager
async def serving(
    folder: Path, host: str, api: ApiConfig = NO_TOKEN, **tables: dict[str, Any]
) -> AsyncIterator[Asked]:
    """A server with a port of each kind, on which requests may change all that requests ever may."""
    (folder / "store").mkdir(exist_ok=True)
    write_mlp(folder / "models" / "mlp", 1)
    clouds = {"sagemaker": {"model": "mlp", "brings_models": True}, "vertex-ai": {"model": "mlp"}}
    fronts = [
        FrontConfig(host, 0, grace_seconds=5, serves=kind, platform=clouds.get(kind, {}))  # type: ignore[arg-type]
        for kind in KINDS
    ]
    handlers = HandlerStoreConfig(ArchiveStoreConfig(str(folder / "store")), is_open=True)
    config = ServeConfig(
        paths=(str(folder / "models"),),
        front=fronts[0],
        more=tuple(fronts[1:]),
        api=api,
        control="explicit",
        load=("mlp",),
        tables={**tables, "torchserve": {"handlers": handlers, **tables.get("torchserve", {})}},
    )
    async with Server(config) as server, httpx.AsyncClient(timeout=PATIENCE_S) as client:
        asked = Asked(server, host, client)
        yield asked
        await asked.close()


@pytest.fixture
def token(tmp_path: Path) -> ApiConfig:
    (tmp_path / "token").write_text(TOKEN)
    return ApiConfig(str(tmp_path / "token"))


async def test_a_port_of_this_machine(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1", registry={"ledger": str(tmp_path / "registry")}) as port:
        every = list(changes(port.server))
        assert any(change.path.startswith("/api/") for change in every)
        assert {change.kind for change in every} == set(KINDS) - {"vertex-ai", "torchserve-inference"}
        for change in every:
            assert is_forbidden(await port.ask(change, origin=EVIL)), change
            assert is_forbidden(await port.ask(change, origin="null")), change
            assert is_forbidden(await port.ask(change, origin="http://localhost:9")), change
            assert is_forbidden(await port.ask(change, sec_fetch_site="cross-site")), change
            assert is_forbidden(await port.ask(change, host=REBOUND)), change
            for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", ""):
                free = await port.ask(change, **({"host": host} if host else {}))
                assert not is_forbidden(free), (change, host)
                assert free not in (401, "UNAUTHENTICATED"), (change, host)


async def test_a_page_that_was_rebound_reads_nothing_either(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1") as port:
        for kind, verb, path in (
            *(("all", o.verb, re.sub(r"{\w+}", "mlp", o.path)) for o in OPERATIONS if not o.changes),
            ("all", "GET", "/api/v1/served"),
            ("all", "GET", "/console/"),
            ("all", "GET", "/models"),
            ("http", "GET", "/v2"),
            ("openai", "GET", "/v1/models"),
            ("sagemaker", "GET", "/ping"),
            ("sagemaker", "GET", "/models"),
            ("sagemaker", "POST", "/invocations"),
            ("vertex-ai", "POST", "/predict"),
            ("torchserve-inference", "GET", "/ping"),
            ("torchserve-inference", "POST", "/predictions/none"),
            ("torchserve-management", "GET", "/models"),
            ("torchserve-all", "GET", "/metrics"),
        ):
            change = Change(kind, verb, path)  # type: ignore[arg-type]
            assert is_forbidden(await port.ask(change, host=REBOUND)), change
            assert not is_forbidden(await port.ask(change)), change
            # TorchServe's ports know the path by now, and would ask the model without a task of its own
            assert is_forbidden(await port.ask(change, host=REBOUND)), change
        live = Change("grpc", "", f"{TRITON}ServerLive")
        assert is_forbidden(await port.ask(live, host=REBOUND))
        assert await port.ask(live) == "OK"


async def test_pages_may_ask_models_as_far_as_the_model_lets_them(tmp_path: Path) -> None:
    """Such a page reads no answer: it costs the run (docs/how-to/access.md)."""
    async with serving(tmp_path, "127.0.0.1") as port:
        asked = await port.ask(Change("all", "POST", "/v2/models/mlp/infer"), origin=EVIL)
        assert asked == 400  # the body is none of a request


async def test_a_port_that_others_reach_without_a_token(tmp_path: Path) -> None:
    async with serving(tmp_path, "0.0.0.0") as port:
        for change in changes(port.server):
            assert is_forbidden(await port.ask(change)), change
            assert is_forbidden(await port.ask(change, authorization=f"Bearer {TOKEN}")), change
        assert await port.ask(Change("all", "GET", "/v2/health/live"), host=REBOUND) == 200
        for path in ("LogSettings", "TraceSetting"):
            assert await port.ask(Change("grpc", "", TRITON + path)) == "OK"  # which only reads


#: One way to run a model in each protocol and at each kind of port.
INFERENCES: tuple[Change, ...] = (
    Change("all", "POST", "/v2/models/mlp/infer"),
    Change("http", "POST", "/v2/models/mlp/infer"),
    Change("all", "POST", "/v1/models/mlp:predict"),
    Change("openai", "POST", "/v1/completions"),
    Change("all", "POST", "/predictions/mlp"),
    Change("torchserve-all", "POST", "/predictions/mlp"),
    Change("torchserve-inference", "POST", "/predictions/mlp"),
    Change("all", "", f"{TRITON}ModelInfer"),
    Change("grpc", "", f"{TRITON}ModelInfer"),
    Change("grpc", "", "/tensorflow.serving.PredictionService/Predict"),
    Change("grpc", "", "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"),
)


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_models_run_for_others_only_if_the_operator_says_so(
    tmp_path: Path, *, is_allowed: bool
) -> None:
    async with serving(tmp_path, "0.0.0.0", ApiConfig(allows_anonymous=is_allowed)) as port:
        for inference in INFERENCES:
            for _ in range(2):  # the second by a head that is known
                assert is_forbidden(await port.ask(inference)) is not is_allowed, inference
        for read in ("/v2/health/live", "/v2/health/ready", "/v2/models/mlp", "/metrics"):
            assert await port.ask(Change("all", "GET", read)) == 200
        for platforms in (
            Change("sagemaker", "POST", "/models/mlp/invoke"),
            Change("vertex-ai", "POST", "/predict"),
        ):
            assert not is_forbidden(await port.ask(platforms)), "the platform is the only caller"
        load = Change("all", "POST", "/v2/repository/models/mlp/load")
        assert is_forbidden(await port.ask(load))
        assert port.server.ports.refuses_inference is not is_allowed


async def test_callers_with_a_certificate_are_no_strangers(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1") as port:
        for ca, refuses in (("ca.pem", False), ("", True)):
            port.server.ports.app(FrontConfig("0.0.0.0", 0, tls_client_ca=ca))
            assert port.server.ports.refuses_inference is refuses


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_a_port_with_a_token(tmp_path: Path, token: ApiConfig, host: str) -> None:
    async with serving(tmp_path, host, token, registry={"ledger": str(tmp_path / "registry")}) as port:
        for change in changes(port.server):
            for wrong in ({}, {"authorization": "Bearer nobodys-token-at-all"}, {"authorization": TOKEN}):
                assert is_unproven(await port.ask(change, **wrong), change), (change, wrong)
            right = {"authorization": f"Bearer {TOKEN}"}
            done = await port.ask(change, **right)
            assert not is_forbidden(done), change
            assert not is_unproven(done, change) or done == 400, change
            assert is_forbidden(await port.ask(change, **right, origin=EVIL)), change


async def test_a_port_that_takes_changes_from_everybody(tmp_path: Path) -> None:
    api = ApiConfig(allows_remote=True)
    async with serving(tmp_path, "0.0.0.0", api) as port:
        for change in changes(port.server):
            assert not is_forbidden(await port.ask(change)), change
            assert is_forbidden(await port.ask(change, origin=EVIL)), change
            # Its own name may be anybody's: a page of that name may have been made to point here.
            rebound = {"host": REBOUND, "origin": f"http://{REBOUND}"}
            if change.verb:
                assert is_forbidden(await port.ask(change, **rebound)), change


async def test_names_that_a_proxy_hands_on(tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1", ApiConfig(hosts=("Models.example.org",))) as port:
        live = Change("all", "GET", "/v2/health/live")
        assert await port.ask(live, host="models.example.org") == 200
        assert await port.ask(live, host="models.example.org:443") == 200
        assert await port.ask(live, host="evil.example.org") == 403


async def test_the_registrys_tokens_open_every_protocol(tmp_path: Path) -> None:
    """One that is for outcomes alone opens nothing else."""
    registry = tmp_path / "registry"
    async with serving(tmp_path, "0.0.0.0", registry={"ledger": str(registry)}) as port:
        kept = ledgered(port.server).kept(port.server.kernel.new_id)
        tokens = {}
        for name, role in (("ada", "release"), ("app", "outcomes")):
            _, secret = await kept.tokens.make(name, [role], ANN)
            tokens[name] = {"authorization": f"Bearer {secret}"}
        some = [
            Change("all", "POST", "/v2/repository/models/none/load"),
            Change("all", "POST", "/v2/logging"),
            Change("grpc", "", f"{TRITON}RepositoryModelUnload"),
        ]
        for change in some:
            assert is_unproven(await port.ask(change), change)
            assert is_forbidden(await port.ask(change, **tokens["app"]))
            done = await port.ask(change, **tokens["ada"])
            assert not is_forbidden(done)
            assert not is_unproven(done, change)


async def test_torchserves_management_is_where_it_was_asked_for(tmp_path: Path) -> None:
    handlers = HandlerStoreConfig(ArchiveStoreConfig(str(tmp_path / "store")))
    async with serving(tmp_path, "127.0.0.1", torchserve={"handlers": handlers}) as port:
        for method in ("RegisterModel", "UnregisterModel", "ScaleWorker", "SetDefault"):
            assert await port.ask(Change("all", "", MANAGEMENT + method)) == "UNIMPLEMENTED"
            assert await port.ask(Change("grpc", "", MANAGEMENT + method)) == "UNIMPLEMENTED"
            # over HTTP/2 at the port of predictions over REST
            assert await port.ask(Change("torchserve-inference", "", MANAGEMENT + method)) == "UNIMPLEMENTED"
            there = await port.ask(Change("torchserve-grpc-management", "", MANAGEMENT + method))
            assert there not in ("UNIMPLEMENTED", "PERMISSION_DENIED") or method in (
                "RegisterModel",
                "UnregisterModel",
            )
        assert await port.ask(Change("all", "PUT", "/models/none/1.0/set-default")) == 405


async def test_torchserves_keys_take_the_tokens_place(tmp_path: Path, token: ApiConfig) -> None:
    rules = TorchServeRules(tokens=TokenRules(str(tmp_path / "keys.json")))
    async with serving(tmp_path, "0.0.0.0", token, torchserve={"rules": rules}) as port:
        keys = msgspec.json.decode((tmp_path / "keys.json").read_bytes())
        right = {"authorization": f"Bearer {keys['management']['key']}"}
        for change in (
            Change("torchserve-management", "DELETE", "/models/none"),
            Change("all", "DELETE", "/models/none"),
        ):
            assert await port.ask(change) == 400
            assert await port.ask(change, **right) == 404
            assert await port.ask(change, **right, origin=EVIL) == 403
        scale = Change("torchserve-grpc-management", "", f"{MANAGEMENT}ScaleWorker")
        assert await port.ask(scale) == "PERMISSION_DENIED"
        assert await port.ask(scale, **right) != "PERMISSION_DENIED"


async def test_salvers_own_client_and_command_show_the_token(
    tmp_path: Path, token: ApiConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path, "0.0.0.0", token) as port:
        url = f"http://127.0.0.1:{port.ports['all']}"
        async with Client(url) as client, Client(url, token=TOKEN) as known:
            for change in (client.unload("mlp"), client.load("mlp")):
                with pytest.raises(Unauthenticated, match="needs a token"):
                    await change
            await known.unload("mlp")
            await known.load("mlp")
        command = ["models", "unload", "mlp", "--url", url]
        assert await asyncio.to_thread(main, command) == 1
        monkeypatch.setenv("SALVER_TOKEN", TOKEN)
        assert await asyncio.to_thread(main, command) == 0
        assert "mlp is unloaded" in capsys.readouterr().out
