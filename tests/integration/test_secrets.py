"""Secrets that are planted everywhere are in nothing that a server writes or answers."""

import os
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import write_mlp

from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, editing, hash_of
from salver.testing.process import ServerProcess

SALVER = str(Path(sys.executable).with_name("salver"))
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}]}


def planted(name: str) -> str:
    """A secret that nothing else looks like."""
    return f"canary-{name}-5e0c1d9f7a"


TOKEN, FOREIGN, JWT = planted("token"), planted("foreign"), f"eyJhbGciOiJIUzI1NiJ9.{planted('jwt')}.c2ln"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": planted("aws-id"),
    "AWS_SECRET_ACCESS_KEY": planted("aws-secret"),
    "AWS_SESSION_TOKEN": planted("aws-session"),
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={planted('otel')}",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://u:{planted('otel-url')}@127.0.0.1:9/v1/traces",
    "TRITONCACHE_REDIS_PASSWORD": planted("redis"),
    "MLFLOW_TRACKING_PASSWORD": planted("mlflow"),
    "SALVER_TOKEN": planted("client"),
    "PGPASSWORD": planted("pg"),
}
#: Places of a credential that is not looked at; all that is done with it is to refuse the request.
ODD_PLACES: tuple[tuple[str, Mapping[str, str]], ...] = (
    (f"?api_key={FOREIGN}", {}),
    (f"?token={FOREIGN}&access_token={FOREIGN}", {}),
    ("", {"cookie": f"key={FOREIGN}"}),
    ("", {"X_Api_Key": FOREIGN}),
    ("", {"authorization": f"Bearer {FOREIGN}"}),
    ("", {"authorization": f"Token {FOREIGN}"}),
    ("", {"authorization": FOREIGN}),
    ("", {"authorization": f"Bearer {JWT}"}),
    ("", {"x-api-key": FOREIGN, "api-key": f"{FOREIGN}2"}),
    ("", {"proxy-authorization": f"Basic {FOREIGN}"}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def secrets(folder: Path) -> dict[str, str]:
    """Every secret, by where it is."""
    found = {name: value.rpartition("=")[2] for name, value in ENVIRONMENT.items() if "://" not in value}
    found |= {"otel-url": planted("otel-url"), "token": TOKEN, "foreign": FOREIGN, "jwt": planted("jwt")}
    return {**found, "hook": planted("hook"), "key": new_key(), "narrow": new_key(), "revoked": new_key()}


@pytest.fixture(scope="module")
def server(folder: Path, secrets: dict[str, str]) -> Iterator[ServerProcess]:
    write_mlp(folder / "models" / "mlp", 1)
    (folder / "api-token").write_text(TOKEN)
    with editing(folder / "keys.toml") as records:
        for name, scopes in (("key", ("*",)), ("narrow", ("infer:other",)), ("revoked", ("*",))):
            records.append(KeyRecord(name, name, hash_of(secrets[name]), scopes))
    written = folder / "written"
    written.mkdir()
    options = ["--log-level", "debug", "--access-log", "all", "--api-token-file", str(folder / "api-token")]
    options += ["--keys-file", str(folder / "keys.toml"), "--registry", str(folder / "registry")]
    options += ["--trace-file", str(written / "trace"), "--trace-level", "timestamps", "--trace-rate", "1"]
    options += ["--state-dir", str(written / "state"), "--prediction-log", str(written / "predictions")]
    with ServerProcess([folder / "models"], written / "log", options=options, env=ENVIRONMENT) as running:
        until(lambda: "ready in" in running.output(), running.output)
        yield running


def test_nothing_that_a_server_writes_or_answers_holds_a_secret(
    folder: Path, server: ServerProcess, secrets: dict[str, str]
) -> None:
    told = [*asked_over_http(server, secrets), *asked_over_grpc(server, secrets)]
    told += delivered_in_vain(folder, server, secrets)
    with editing(folder / "keys.toml") as records:
        records[:] = [record for record in records if record.id != "revoked"]
    revoked = {"x-api-key": secrets["revoked"]}
    until(lambda: httpx.get(f"{server.url}/v2", headers=revoked).status_code == 401)
    (folder / "keys.toml").write_text("[[key]]\nid = 1")  # which is wrong, and is told
    until(lambda: "the keys stay as they are" in server.output())
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: "looking again" in server.output())
    server.stop()
    output = server.output()
    assert "request refused" in output and '"logger":"salver.access"' in output
    written = [path for path in (folder / "written").rglob("*") if path.is_file()]
    assert {"log", "trace"} <= {path.name.partition(".")[0] for path in written}
    texts = [*told, *(path.read_text(errors="replace") for path in written)]
    holds_none(secrets, texts)


def holds_none(secrets: Mapping[str, str], texts: Iterable[str]) -> None:
    for text in texts:
        for name, secret in secrets.items():
            assert secret not in text, (name, text[max(0, text.find(secret) - 300) :][:600])


def asked_over_http(server: ServerProcess, secrets: dict[str, str]) -> Iterator[str]:
    """Answers to everything that is odd, by everybody; their headers as well."""
    keys = [{}, {"x-api-key": secrets["key"]}, {"authorization": f"Bearer {secrets['narrow']}"}]
    keys += [{"authorization": f"Bearer {TOKEN}"}, {"x-api-key": secrets["revoked"]}]
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        hook = {"url": f"http://u:{secrets['hook']}@127.0.0.1:9/", "events": ["tag.set"]}
        made = client.post("/api/v1/webhooks", json=hook, headers=keys[1])
        if made.status_code < 300 and "secret" in made.json():
            secrets["webhook"] = made.json()["secret"]  # told once, to who asks for it
        posts = ("/v2/repository/index", "/v2/models/mlp/infer", "/v1/completions", "/predictions/mlp")
        for query, headers in ODD_PLACES:
            for path in posts:
                answer = client.post(path + query, headers=headers, json=BODY)
                assert answer.status_code in (400, 401), (path, query, headers)
                yield said(answer)
        paths = ["/metrics", "/v2", "/v2/models/mlp", "/v2/models/mlp/explain", "/v2/models/stats"]
        paths += ["/v2/logging", "/v2/trace/setting", "/openapi.json", "/console/", "/nowhere", "/models"]
        views = ("me", "server", "served", "models", "audit", "webhooks", "traffic", "deliveries", "keys")
        paths += [f"/api/v1/{name}" for name in (*views, "usage", "releases", "nowhere")]
        for path in paths:
            for headers in keys:
                yield said(client.get(path, headers=headers))
        for headers in keys:
            yield said(client.post("/v2/models/mlp/infer", headers=headers, json=BODY))
            yield said(client.post("/v2/models/mlp/infer", headers=headers, content=b"{"))
            yield said(client.post("/v2/repository/models/none/load", headers=headers, json={}))
            yield said(client.post("/api/v1/releases", headers=headers, json={"model": 1}))


def delivered_in_vain(folder: Path, server: ServerProcess, secrets: dict[str, str]) -> Iterator[str]:
    """What is told of deliveries to receivers that fail, each in its own way; and of a backup."""
    secrets["ledger-key"] = salver(folder, "keys", "create", "ledgered").strip()
    secrets["registry-token"] = salver(folder, "registry", "token", "add", "ann", "--role", "admin").strip()
    me = {"x-api-key": secrets["key"]}
    with failing_receiver() as receiver:
        paths = ("refused", "status", "redirect", "garbage", "silence")
        for path in paths:
            port = 9 if path == "refused" else receiver
            secrets[f"password of {path}"] = password = planted(f"{path}-password")
            secrets[f"path of {path}"] = end = planted(f"{path}-path")
            url = f"http://u:{password}@127.0.0.1:{port}/{path}/{end}"
            key = "whsec_" + b64encode(planted(f"{path}-signs").encode()).decode()
            secrets[f"signing key of {path}"] = key
            made = httpx.post(f"{server.url}/api/v1/webhooks", json={"url": url, "secret": key}, headers=me)
            assert made.status_code == 200, made.text  # which tells its author the same URL
        salver(folder, "registry", "push", "models/mlp/1/model.onnx", "--name", "m", "--unloaded")
        salver(folder, "registry", "tag", "m/1", "team=risk")

        def told() -> httpx.Response:
            return httpx.get(f"{server.url}/api/v1/deliveries?state=failing", headers=me)

        until(lambda: len({each["webhook"] for each in told().json()["items"]}) > len(paths), told)
    yield told().text
    for command in (["webhook", "deliveries", "--json"], ["history"]):
        yield salver(folder, "registry", *command)
    listed = salver(folder, "registry", "webhook", "list")
    assert "/garbage/" in listed, "who keeps the ledger sees the path, by which receivers are told apart"
    holds_none({name: secret for name, secret in secrets.items() if not name.startswith("path")}, [listed])
    yield salver(folder, "backup", "create", "backup")
    yield salver(folder, "backup", "restore", "backup", "--only", "artifacts")
    # What a restored registry needs to go on, and nothing else.
    needed = {name for name in secrets if name.startswith(("signing", "password", "path", "hook", "webhook"))}
    for place in ("backup", "registry"):
        kept = [path.read_bytes().decode("latin-1") for path in (folder / place).rglob("*") if path.is_file()]
        assert all(any(secrets[name] in text for text in kept) for name in needed), place
        holds_none({name: secret for name, secret in secrets.items() if name not in needed}, kept)


def salver(folder: Path, *words: str) -> str:
    own = {"SALVER_REGISTRY": str(folder / "registry")}
    done = subprocess.run(
        [SALVER, *words],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **own, "SALVER_TOKEN": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def failing_receiver() -> Iterator[int]:
    """A receiver that tells all that it got in each place of its answer, or answers nothing; its port."""

    def answer(caller: socket.socket) -> None:
        with closing(caller):
            got, end = b"", b"\r\n\r\n"
            while end not in got:
                if not (piece := caller.recv(65536)):
                    return
                got += piece
            path, echo = got.split(b" ")[1], got.replace(b"\r\n", b" ")
            if path.startswith(b"/status"):
                caller.sendall(
                    b"HTTP/1.1 500 " + echo + b"\r\ncontent-length: 3\r\nx-e: " + echo + b"\r\n\r\nbad"
                )
            elif path.startswith(b"/redirect"):
                caller.sendall(b"HTTP/1.1 307 " + echo + b"\r\nlocation: http://127.0.0.1:9" + path + end)
            elif path.startswith(b"/garbage"):
                caller.sendall(path + b" " + echo + b"\r\n\r\n")

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(caller,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)


def said(answer: httpx.Response) -> str:
    return f"{answer.headers!r} {answer.text}"


def asked_over_grpc(server: ServerProcess, secrets: Mapping[str, str]) -> Iterator[str]:
    client = tritonclient.grpc.InferenceServerClient(server.address)
    x = tritonclient.grpc.InferInput("x", [1, 16], "FP32")
    x.set_data_from_numpy(np.zeros((1, 16), np.float32))
    for headers in (
        {},
        {"authorization": f"Bearer {FOREIGN}"},
        {"authorization": f"Bearer {secrets['narrow']}"},
        {"authorization": f"Bearer {secrets['key']}", "x-api-key": FOREIGN},
        {"api-key": JWT},
        {"authorization": f"Bearer {secrets['key']}"},
    ):
        for model in ("mlp", "none"):
            try:
                client.infer(model, [x], headers=headers)
            except InferenceServerException as error:
                yield str(error)
    with grpc.insecure_channel(server.address) as channel:
        try:
            channel.unary_unary("/nowhere/Method")(b"", metadata=[("authorization", FOREIGN)])
        except grpc.RpcError as error:
            yield str(error)


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        (["--registry", f"postgresql://u:{planted('ledger')}@127.0.0.1:9/db"], planted("ledger")),
        (["--api-token-file", "short"], planted("short")[:9]),
        (["--keys-file", "keys-in-clear.toml"], planted("in-clear")),
        (["--identity-file", "identity.toml"], planted("jwks")),
    ],
)
def test_a_server_that_does_not_start_says_why_without_its_secrets(
    tmp_path: Path, options: list[str], secret: str
) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "short").write_text(planted("short")[:9])
    (tmp_path / "keys-in-clear.toml").write_text(
        f'[[key]]\nid = "a"\nname = "a"\nhash = "{planted("in-clear")}"\nscopes = ["infer"]\n'
    )
    (tmp_path / "identity.toml").write_text(
        f"""[[issuer]]
issuer = "i"
audience = "a"
algorithms = ["RS256"]
jwks = "https://u:{planted("jwks")}@127.0.0.1/keys"
[[identity]]
scopes = ["infer"]
"""
    )
    words = [SALVER, "serve", "models", "--port", "0", *options]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode and done.stderr
    assert secret not in done.stdout + done.stderr


def test_settings_are_shown_without_secrets(tmp_path: Path, secrets: dict[str, str]) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    registry = f"postgresql://u:{planted('ledger')}@127.0.0.1:9/db"
    cache = f"redis,host=127.0.0.1,password={planted('cache')}"
    for more in ([], ["--json"]):
        words = [SALVER, "config", "show", "models", "--registry", registry, "--response-cache", cache, *more]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        for secret in (*secrets.values(), planted("ledger"), planted("cache")):
            assert secret not in done.stdout + done.stderr
