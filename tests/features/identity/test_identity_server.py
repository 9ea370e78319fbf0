"""Callers whom others vouch for, at a running server: tokens, certificates, and proxies."""

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme
from issuing import OTHER_RSA, jwks, public_jwk, token
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import write_mlp

from salver.features.access.key_format import digest_of, new_key
from salver.features.access.key_table import Key, KeyTable
from salver.features.access.keys_file import KeyRecord, editing, hash_of
from salver.features.access.scopes import Scopes
from salver.features.identity.identities import _MOST, Identities
from salver.features.identity.peers import Proxies
from salver.features.identity.rules import Row, Table
from salver.testing.process import ServerProcess
from salver.transport.access_check import Caller

ROW = np.zeros((1, 16), np.float32)

FILE = """
[[issuer]]
issuer = "https://login.example.org/"
audience = "salver"
algorithms = ["RS256", "ES256"]
jwks = "jwks.json"

[[proxy]]
addresses = ["127.0.0.1"]
headers = { sub = "x-forwarded-user", groups = "x-forwarded-groups" }

[[identity]]
source = "jwt"
match = { groups = "few" }
scopes = ["infer"]
limits = { requests = "1/h+2" }

[[identity]]
source = "jwt"
match = { groups = ["ml-*", "admins"] }
tenant = "{org}"
scopes = ["infer:mlp", "read:mlp"]
priority = 2

[[identity]]
source = "certificate"
match = { san = "DNS:web.*" }
name = "{san}"
tenant = "acme"
scopes = ["infer:mlp"]

[[identity]]
source = "certificate"
match = { ou = "ops" }
tenant = "acme"
scopes = ["*"]

[[identity]]
source = "proxy"
match = { groups = "ml" }
scopes = ["infer:mlp"]
"""


class World(NamedTuple):
    server: ServerProcess
    folder: Path
    key: str

    @property
    def address(self) -> str:
        return self.server.address


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("identity")
    write_mlp(folder / "models" / "mlp", 1)
    (folder / "identity.toml").write_text(FILE.replace('"{san}"', '"web"'))
    (folder / "jwks.json").write_bytes(jwks())
    key = new_key()
    with editing(folder / "keys.toml") as records:
        records.append(KeyRecord("own", "own", hash_of(key), ("*",)))
    options = ["--keys-file", str(folder / "keys.toml"), "--identity-file", str(folder / "identity.toml")]
    with ServerProcess(
        [folder / "models"], folder / "log", options=[*options, "--access-log", "all"]
    ) as server:
        until(lambda: "model ready" in server.output(), server.output)
        yield World(server, folder, key)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def a_row(triton: Any) -> Any:
    x = triton.InferInput("x", [1, 16], "FP32")
    x.set_data_from_numpy(ROW)
    return x


def outcome(world: World, triton: Any, headers: dict[str, str]) -> str:
    """``OK``, or the status of the error."""
    try:
        client = triton.InferenceServerClient(world.address)
        client.infer("mlp", [a_row(triton)], headers=dict(headers))  # which the client changes
    except InferenceServerException as error:
        return str(error.status()).rpartition(".")[2]
    return "OK"


def me(world: World, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(f"{world.server.url}/api/v1/me", headers=headers)


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_a_token_is_a_key(world: World, triton: Any) -> None:
    for algorithm in ("RS256", "ES256"):
        good = token(algorithm, groups=["ml-vision"], org="acme")
        for _ in range(3):
            assert outcome(world, triton, bearer(good)) == "OK"
            assert outcome(world, triton, {"x-api-key": good}) == "OK"
    for wrong in (
        token(groups=["web"], org="acme"),
        token(groups=["ml-vision"]),  # whose tenant is not known
        token(groups=["ml-vision"], org="acme", exp=int(time.time()) - 60),
        token(groups=["ml-vision"], org="acme", aud="other"),
        token(groups=["ml-vision"], org="acme", key=OTHER_RSA),
        token("EdDSA", groups=["ml-vision"], org="acme"),  # which the operator does not accept
    ):
        for _ in range(2):
            assert outcome(world, triton, bearer(wrong)) in ("401", "UNAUTHENTICATED")
    several = {**bearer(token(groups=["admins"], org="acme")), "x-api-key": world.key}
    assert outcome(world, triton, several) in ("400", "UNAUTHENTICATED"), "they name different callers"
    assert outcome(world, triton, bearer(world.key)) == "OK"


def test_claims_decide_what_a_caller_may_do(world: World) -> None:
    good = token(groups=["ml-vision"], org="acme", exp=int(time.time()) + 100)
    said = me(world, bearer(good)).raise_for_status().json()
    assert said["id"] == "jwt:ann@https://login.example.org/"
    assert (said["name"], said["tenant"], said["priority"]) == ("ann", "acme", 2)
    assert said["scopes"] == ["infer:mlp", "read:mlp"]
    assert said["expires"] <= time.time() + 140
    client = tritonclient.http.InferenceServerClient(world.address)
    assert client.get_model_metadata("mlp", headers=bearer(good))
    with pytest.raises(InferenceServerException, match="no scope 'models'"):
        client.load_model("mlp", headers=bearer(good))


def test_a_flood_of_forged_tokens_is_refused_and_callers_beside_it_are_served(world: World) -> None:
    good, new = (bearer(token(sub=who, groups=["ml-a"], org="acme")) for who in ("steady", "newcomer"))
    url = f"{world.server.url}/v2/models/mlp/infer"

    def ask(headers: dict[str, str]) -> httpx.Response:
        return httpx.post(url, json={"x": [[0.0] * 16]}, headers=headers)

    assert ask(good).status_code == 200
    forged = token(key=OTHER_RSA, sub="nobody", groups=["ml-a"])
    head = f"GET /v2 HTTP/1.1\r\nhost: {world.address}\r\nauthorization: Bearer {forged[:-9]}"
    flood = "".join(f"{head}{number:05}{forged[-4:]}\r\n\r\n" for number in range(2000))
    told = asyncio.run(pipelined(world.address, flood.encode(), 2000))
    assert told.count(b"HTTP/1.1 401") > 199 < told.count(b"HTTP/1.1 429")
    assert b"\r\nretry-after: 1\r\n" in told and b"ratelimit" not in told and b"HTTP/1.1 200" not in told
    assert ask(good).status_code == 200
    until(lambda: ask(new).status_code == 200)


async def pipelined(address: str, sent: bytes, count: int) -> bytes:
    """Send requests without waiting, and return all answers."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(sent)
    told = b""
    async with asyncio.timeout(PATIENCE_S):
        while told.count(b"HTTP/1.1 ") < count:
            piece = await reader.read(1 << 20)
            assert piece, told[-500:]
            told += piece
    writer.close()
    return told


def test_the_state_of_an_issuers_keys_is_measured(world: World) -> None:
    page = httpx.get(f"{world.server.url}/metrics", headers=bearer(world.key)).text
    issuer = 'issuer="https://login.example.org/"'
    assert f"salver_identity_keys{{{issuer}}} 2.0" in page
    assert f"salver_identity_keys_age_seconds{{{issuer}}} " in page


def test_all_tokens_of_a_caller_share_its_limits(world: World) -> None:
    def ask(jti: int, sub: str) -> str:
        return outcome(world, tritonclient.http, bearer(token(groups=["few"], jti=str(jti), sub=sub)))

    assert [ask(number, "bob") for number in range(4)] == ["OK", "OK", "429", "429"]
    assert ask(0, "eve") == "OK"


def test_keys_of_an_issuer_that_are_gone_end_its_tokens(world: World) -> None:
    good = token(groups=["admins"], org="acme")
    for triton in (tritonclient.http, tritonclient.grpc):
        assert outcome(world, triton, bearer(good)) == "OK"
    (world.folder / "jwks.json").write_bytes(jwks(public_jwk(OTHER_RSA, "RS256", "next")))
    text = (world.folder / "identity.toml").read_text()
    try:
        fresh = token(groups=["admins"], org="acme", key=OTHER_RSA, headers={"kid": "next"})
        until(lambda: outcome(world, tritonclient.http, bearer(fresh)) == "OK", world.server.output)
        for triton in (tritonclient.http, tritonclient.grpc):
            assert outcome(world, triton, bearer(good)) in ("401", "UNAUTHENTICATED")
        (world.folder / "identity.toml").write_text("[[identity]]")  # which is wrong, and changes nothing
        until(lambda: "the identities stay as they are" in world.server.output())
        assert outcome(world, tritonclient.http, bearer(fresh)) == "OK"
    finally:
        (world.folder / "jwks.json").write_bytes(jwks())
        (world.folder / "identity.toml").write_text(text)
    again = token(groups=["admins"], org="acme", sub="again")
    until(lambda: outcome(world, tritonclient.http, bearer(again)) == "OK", world.server.output)


@pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc])
def test_a_trusted_proxy_names_its_callers(world: World, triton: Any) -> None:
    named = {"x-forwarded-user": "zoe", "x-forwarded-groups": "web, ml"}
    for _ in range(3):
        assert outcome(world, triton, named) == "OK"
    assert outcome(world, triton, {**named, "x-forwarded-groups": "web"}) in ("401", "UNAUTHENTICATED")
    assert outcome(world, triton, {"x-forwarded-groups": "ml"}) in ("401", "UNAUTHENTICATED")
    assert outcome(world, triton, {**named, "x-forwarded-user": ""}) in ("401", "UNAUTHENTICATED")
    both = {**named, **bearer(world.key)}
    assert outcome(world, triton, both) in ("400", "UNAUTHENTICATED")


def test_a_header_that_is_there_twice_names_nobody(world: World) -> None:
    """A caller has sent it, too, and the proxy has added its own."""
    sent = [("x-forwarded-user", "root"), ("X-Forwarded-User", "zoe"), ("x-forwarded-groups", "ml")]
    assert httpx.get(f"{world.server.url}/api/v1/me", headers=sent).status_code == 401
    sent[0:1] = []
    assert httpx.get(f"{world.server.url}/api/v1/me", headers=sent).json()["id"] == "proxy:zoe"


def test_a_proxy_elsewhere_is_not_trusted(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "identity.toml").write_text(FILE.replace('"127.0.0.1"', '"10.0.0.0/8", "unix"'))
    (tmp_path / "jwks.json").write_bytes(jwks())
    options = ["--identity-file", str(tmp_path / "identity.toml")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options=options) as server:
        until(lambda: "model ready" in server.output(), server.output)
        world = World(server, tmp_path, "")
        named = {"x-forwarded-user": "zoe", "x-forwarded-groups": "ml"}
        for triton in (tritonclient.http, tritonclient.grpc):
            assert outcome(world, triton, named) in ("401", "UNAUTHENTICATED")
        assert outcome(world, tritonclient.http, bearer(token(groups=["admins"], org="acme"))) == "OK"
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


def test_a_certificate_is_an_identity(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "identity.toml").write_text(FILE.replace('"{san}"', '"web"'))
    (tmp_path / "jwks.json").write_bytes(jwks())
    own = authority.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ["--identity-file", str(tmp_path / "identity.toml")]
    options += ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    options += ["--tls-client-ca", str(tmp_path / "ca.pem")]
    callers = {
        "web": authority.issue_cert("web.example.org"),
        "ops": authority.issue_cert("ops.example.org", organization_unit_name="ops"),
        "nobody": authority.issue_cert("nobody.example.org"),
    }
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options=options) as server:
        until(lambda: "ready in" in server.output(), server.output)
        found = {name: _asked(server, authority, cert, tmp_path / name) for name, cert in callers.items()}
    # each has its own connections, and heads that are equal say nothing about who is at the other end
    nobody = (401, 401, "UNAUTHENTICATED")
    assert found == {"web": (403, 200, "OK"), "ops": (200, 200, "OK"), "nobody": nobody}


def _asked(
    server: ServerProcess, authority: trustme.CA, cert: trustme.LeafCert, folder: Path
) -> tuple[int, int, str]:
    """Statuses of metadata and inference over HTTP, and of inference over gRPC."""
    folder.mkdir()
    cert.private_key_pem.write_to_path(folder / "key.pem")
    cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.tolist()}]}
    with httpx.Client(verify=context, base_url=f"https://{server.address}", timeout=PATIENCE_S) as client:
        for _ in range(3):
            read = client.get("/v2/models/mlp").status_code
            run = client.post("/v2/models/mlp/infer", content=json.dumps(body)).status_code
    grpc = tritonclient.grpc.InferenceServerClient(
        server.address,
        ssl=True,
        root_certificates=str(folder / "ca.pem"),
        private_key=str(folder / "key.pem"),
        certificate_chain=str(folder / "cert.pem"),
    )
    try:
        for _ in range(3):
            grpc.infer("mlp", [a_row(tritonclient.grpc)])
    except InferenceServerException as error:
        return read, run, str(error.status()).rpartition(".")[2]
    return read, run, "OK"


def test_the_audit_log_tells_who_vouches_for_a_caller() -> None:
    keys = KeyTable(lambda: 0.0, lambda: 0, b"")
    keys.replace({digest_of(b"k"): Key("k1", "ann", Scopes(("*",)))})
    ann = Key("jwt:ann@issuer", "ann", Scopes(("*",)))
    keys.accept(cast(Identities, SimpleNamespace(by_token=lambda *token: ann, by_peer=lambda headers: [])))
    assert keys.caller([(b"x-api-key", b"k")]) == Caller("key:ann")
    assert keys.caller([(b"x-api-key", b"token")]) == Caller("jwt:ann@issuer")


def test_what_was_accepted_is_remembered_and_bounded() -> None:
    class Counting:
        count = 0

        def claims(self, text: bytes) -> dict[str, Any] | None:
            self.count += 1
            return {"sub": text.decode(), "iss": "i", "exp": 1000} if text != b"bad" else None

    now, tokens = 0.0, Counting()
    found = Identities(
        tokens,  # type: ignore[arg-type]
        Proxies(()),
        Table((Row(("infer",)),)),
        has_certificates=False,
        now=lambda: now,
    )
    first = found.by_token(b"digest", b"ann")
    for _ in range(100):
        assert found.by_token(b"digest", b"ann") is first
    assert tokens.count == 1
    now = 61.0
    assert found.by_token(b"digest", b"ann") is not first, "it is checked again"
    for number in range(3 * _MOST):
        assert found.by_token(b"%d" % number, b"%d" % number) is not None
        assert found.by_token(b"bad %d" % number, b"bad") is None
    assert len(found._known) == _MOST
