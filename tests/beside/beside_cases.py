"""What is asked of both servers? Seeded, bounded families of requests.

A case has the form of the recorded ones (``tests/golden/README.md``), without an answer.
"""

import base64
import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from beside_models import TYPES

Case = dict[str, Any]
Json = Any
_ODD: tuple[Json, ...] = (
    None, True, False, 0, 1, -1, 1.5, 10**20, "", "x", "1", [], [0], ["x"], {}, {"x": 1}, [[]], [None],
)  # fmt: skip
_HEADER = "Inference-Header-Content-Length"


def http(id: str, path: str, body: Json = None, method: str = "", **more: Any) -> Case:
    """A request over HTTP; a body that is no text becomes JSON."""
    request: Case = {"method": method or ("GET" if body is None else "POST"), "path": path}
    if isinstance(body, bytes):
        request["body_b64"] = base64.b64encode(body).decode()
    elif body is not None:
        request["body"] = body if isinstance(body, str) else json.dumps(body)
    if more.get("headers"):
        request["headers"] = more.pop("headers")
    if more.get("compress"):
        request["compress"] = more.pop("compress")
    return {"id": id, "kind": "http", "request": request, "compare": {"how": "json"}, **more}


def infer(id: str, model: str, body: Json, **more: Any) -> Case:
    """POST …/infer."""
    return http(id, f"/v2/models/{model}/infer", body, **more)


def rpc(id: str, name: str, message: Json = None, **more: Any) -> Case:
    """A unary call."""
    request: Case = {"rpc": name, "message": message or {}}
    request |= {
        key: more.pop(key) for key in ("metadata", "timeout", "compression", "service") if key in more
    }
    return {"id": id, "kind": "grpc", "request": request, "compare": {"how": "json"}, **more}


def stream(id: str, messages: list[Json], **more: Any) -> Case:
    """ModelStreamInfer."""
    request: Case = {"rpc": "ModelStreamInfer", "messages": messages}
    request |= {key: more.pop(key) for key in ("metadata", "timeout", "gap_s", "cancel_after") if key in more}
    return {"id": id, "kind": "grpc", "request": request, "compare": {"how": "json"}, **more}


def scenario(name: str, steps: list[Case]) -> list[Case]:
    """Steps that go together."""
    for number, step in enumerate(steps):
        step |= {"scenario": name, "step": number}
    return steps


# Bodies that are right.


def tensor(name: str, datatype: str, shape: list[int], data: Json, **parameters: Json) -> Json:
    """An input."""
    made = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return made | ({"parameters": parameters} if parameters else {})


def add_sub(rows: int = 1, **more: Json) -> Json:
    """Of ``addsub``."""
    count = rows * 4
    inputs = [
        tensor("INPUT0", "INT32", [rows, 4], list(range(count))),
        tensor("INPUT1", "INT32", [rows, 4], [1] * count),
    ]
    return {"inputs": inputs, **more}


def program(text: str, **more: Json) -> Json:
    """Of ``script``."""
    return {"inputs": [tensor("PROGRAM", "BYTES", [1], [text])], **more}


def paths_of(value: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from paths_of(value[index], (*path, index))


def changed(value: Json, path: tuple[Any, ...], new: Json, *, is_deleted: bool = False) -> Json:
    """A copy with another value at a place, or without that place."""
    if not path:
        return new
    made = copy.deepcopy(value)
    at = made
    for step in path[:-1]:
        at = at[step]
    if is_deleted:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return made


def mutations(id: str, url: str, body: Json) -> Iterator[Case]:
    """Every place of a body removed, replaced by odd values, or with a key too many."""
    for path in paths_of(body):
        at = ".".join(map(str, path)) or "all"
        if path:
            yield http(f"{id}-{at}-gone", url, changed(body, path, None, is_deleted=True))
        for number, odd in enumerate(_ODD):
            yield http(f"{id}-{at}-odd{number}", url, changed(body, path, odd))
        here = body
        for step in path:
            here = here[step]
        if isinstance(here, dict):
            yield http(f"{id}-{at}-more", url, changed(body, path, {**here, "surplus": 1}))
        if isinstance(here, list) and here:
            yield http(f"{id}-{at}-twice", url, changed(body, path, [*here, here[0]]))


# HTTP.


def http_infer() -> Iterator[Case]:
    """Shapes of bodies of inference."""
    full = add_sub(id="7", parameters={"priority": 1, "own": "x"})
    full["outputs"] = [{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}]
    full["inputs"][0]["parameters"] = {"own": 1}
    yield from mutations("infer-addsub", "/v2/models/addsub/infer", full)
    string = {"inputs": [tensor("X", "BYTES", [2], ["a", "b"])]}
    yield from mutations("infer-string", "/v2/models/ident_string/infer", string)
    some = {"inputs": [tensor("A", "INT32", [1], [5]), tensor("B", "INT32", [1], [6])]}
    yield from mutations("infer-some", "/v2/models/some/infer", some)
    labels = {"inputs": [tensor("X", "FP32", [1, 4], [1, 2, 3, 4])]}
    labels["outputs"] = [{"name": "Y", "parameters": {"classification": 2}}]
    yield from mutations("infer-labels", "/v2/models/labels/infer", labels)
    for name, value in _reserved():
        body = add_sub(parameters={name: value})
        yield infer(f"infer-reserved-{name}-{value}", "addsub", body)
        facts = {"inputs": [tensor("IN", "INT32", [1], [1])], "parameters": {name: value}}
        yield infer(f"facts-reserved-{name}-{value}", "echo_facts", facts)
    for rows in (0, 1, 2, 7, 8):
        yield infer(f"infer-rows-{rows}", "addsub", add_sub(rows))
    for number, shape in enumerate(
        (
            [],
            [4],
            [1, 1, 4],
            [2, 2],
            [1, 5],
            [-1, 4],
            [1, -4],
            [4, 1],
            [0, 4],
            [1, 0],
            [1, 4, 1],
            [2**40, 2**40],
        )
    ):
        body = add_sub()
        for one in body["inputs"]:
            one["shape"] = shape
        yield infer(f"infer-shape-{number}", "addsub", body)
        body = {"inputs": [tensor("X", "FP32", shape, [1, 2, 3, 4])]}
        for model in ("matrix", "batch", "reshaped", "labels"):
            yield infer(f"infer-shape-{model}-{number}", model, body)
    for number, text in enumerate(
        ("", " ", "{", "}", "[]", "null", "{}", "{}{}", '{"inputs":[]}', '{"inputs":[],}', "\x00", "NaN",
        '"x"',
         '{"inputs":[], "inputs":[]}', '{"a":' * 99 + "1" + "}" * 99, "\ufeff{}")
    ):  # fmt: skip
        yield infer(f"infer-text-{number}", "addsub", text)
        yield infer(f"infer-text-string-{number}", "one_string", text)


def _reserved() -> Iterator[tuple[str, Json]]:
    for name in (
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "priority",
        "timeout",
        "binary_data_output",
    ):
        for value in (0, 1, -1, True, False, "x", "12", 1.5, 2**63, 2**64, None, [], {}):
            yield name, value
    for name in ("headers", "triton_enable_empty_final_response", "triton_other", "own", ""):
        for value in (1, True, "x", 1.5, -(2**63), 2**64 - 1, None, [], {}):
            yield name, value


def http_datatypes(rng: random.Random) -> Iterator[Case]:
    """Values of every datatype, in JSON and in binary."""
    for datatype, wire in TYPES.items():
        model = f"ident_{datatype.lower()}"
        for number, data in enumerate(
            ([], [0], [1, 2], [[1, 2]], [[1], [2]], [True], ["x"], [1.5], [-1], [255], [256], [1e10],
            [2**31], [2**63],
             [2**64], [1e39], [1e400], [None], [[]], [{}], "x", 1, [0.1, 1e-30], ["é", ""], [[[1]]],
             [-0.0], [1e300])
        ):  # fmt: skip
            length = len(data) if isinstance(data, list) else 1
            body = {"inputs": [tensor("X", wire, [length], data)]}
            yield infer(f"type-{datatype}-{number}", model, body)
            if number < 4:
                for is_binary in (True, False):
                    output = {"outputs": [{"name": "Y", "parameters": {"binary_data": is_binary}}]}
                    yield infer(f"type-{datatype}-{number}-binary-{is_binary}", model, body | output)
        for number in range(6):
            count = rng.randrange(5)
            raw = _raw(rng, wire, count)
            size = len(raw) + (0, 0, 0, 1, -1, 4)[number]
            yield binary(f"binary-{datatype}-{number}", model, "X", wire, [count], raw, size)
            yield http(f"raw-{datatype}-{number}", f"/v2/models/{model}/infer", raw, headers={_HEADER: "0"})


def _raw(rng: random.Random, wire: str, count: int) -> bytes:
    if wire == "BYTES":
        parts = (rng.randbytes(rng.randrange(4)) for _ in range(count))
        return b"".join(struct.pack("<I", len(part)) + part.replace(b"\0", b"1") for part in parts)
    width = {"BOOL": 1, "INT8": 1, "UINT8": 1, "64": 8, "32": 4, "16": 2}
    size = width.get(wire) or width[wire[-2:]]
    return bytes(rng.randrange(2) for _ in range(size * count))


def binary(id: str, model: str, name: str, wire: str, shape: list[int], raw: bytes, size: Json) -> Case:
    """A tensor behind the JSON."""
    head: Json = {"inputs": [{"name": name, "datatype": wire, "shape": shape}]}
    head["inputs"][0]["parameters"] = {"binary_data_size": size}
    head["parameters"] = {"binary_data_output": True}
    text = json.dumps(head).encode()
    return infer(id, model, text + raw, headers={_HEADER: str(len(text))})


def http_binary() -> Iterator[Case]:
    """Sizes that do not fit, and headers that are odd."""
    raw = struct.pack("<4f", 1, 2, 3, 4)
    for size in (0, 1, 8, 15, 16, 17, 32, -1, "16", 1.5, None, True, 2**40, 2**64, [], {}):
        yield binary(f"binary-size-{size}", "matrix", "X", "FP32", [2, 2], raw, size)
    for shape in ([2, 2], [1, 2], [4, 1], [0, 2], [-1, 2], [4], [], [2, 2, 1], [1, 4]):
        yield binary(f"binary-shape-{shape}", "matrix", "X", "FP32", shape, raw, 16)
    for wire in ("FP32", "INT32", "FP64", "BYTES", "BF16", "FP16", "float32", "", "X"):
        yield binary(f"binary-wire-{wire}", "matrix", "X", wire, [2, 2], raw, 16)
    head = {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}]
    }
    text = json.dumps(head).encode()
    for length in (0, 1, len(text) - 1, len(text) + 1, len(text) + 16, len(text) + 17, -1, 2**31, 2**64):
        yield infer(f"binary-header-{length}", "matrix", text + raw, headers={_HEADER: str(length)})
    for spelled in (" 5", "5 ", "+5", "0x10", "5.0", "1e2"):
        yield infer(f"binary-header-text-{spelled}", "matrix", text + raw, headers={_HEADER: spelled})
    for cut in (0, 1, 8, 15):
        yield infer(f"binary-cut-{cut}", "matrix", text + raw[:cut], headers={_HEADER: str(len(text))})
    for extra in (1, 16):
        body = text + raw + b"\1" * extra
        yield infer(f"binary-extra-{extra}", "matrix", body, headers={_HEADER: str(len(text))})
    both = copy.deepcopy(head)
    both["inputs"][0]["data"] = [1, 2, 3, 4]
    text = json.dumps(both).encode()
    yield infer("binary-and-data", "matrix", text + raw, headers={_HEADER: str(len(text))})
    for model in (
        "addsub",
        "addsub_nobatch",
        "one_string",
        "batch",
        "matrix",
        "labels",
        "some",
        "script",
        "chain",
    ):
        for body in (b"", b"x", raw, raw * 2, b"\4\0\0\0abcd", b"\5\0\0\0abcd"):
            url = f"/v2/models/{model}/infer"
            yield http(f"raw-{model}-{len(body)}-{body[:1]!r}", url, body, headers={_HEADER: "0"})
            kind = {"Content-Type": "application/octet-stream"}
            yield http(f"raw-kind-{model}-{len(body)}-{body[:1]!r}", url, body, headers=kind)
    element = b"\5\0\0\0abcd"
    for number, raw in enumerate(
        (element, b"\4\0\0\0abcd", b"\4\0\0\0abcd\0", b"\xff\xff\xff\xff", b"\0\0\0", b"")
    ):
        for count in (0, 1, 2):
            yield binary(
                f"binary-bytes-{number}-{count}", "ident_string", "X", "BYTES", [count], raw, len(raw)
            )


def http_outputs() -> Iterator[Case]:
    """Which outputs, in which form."""
    for number, outputs in enumerate(
        ([], [{"name": "OUTPUT1"}], [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}], [{"name": "OUTPUT0"}] * 2,
         [{"name": "X"}], [{"name": ""}], [{"name": "OUTPUT0", "parameters": {"binary_data": True}}])
    ):  # fmt: skip
        for every in (None, True, False):
            parameters = {} if every is None else {"parameters": {"binary_data_output": every}}
            body = add_sub(2, outputs=outputs, **parameters)
            yield infer(f"outputs-{number}-{every}", "addsub", body)
    row = [0.5, 9, -1, 3, 4, 4, 4, 4]
    for count in (0, 1, 2, 4, 5, 100, -1, "2", 1.5, True, 2**32, 2**32 + 1, 2**63, None):
        for name in ("Y", "Z"):
            for is_binary in (False, True):
                output = {"name": name, "parameters": {"classification": count, "binary_data": is_binary}}
                body = {"inputs": [tensor("X", "FP32", [2, 4], row)], "outputs": [output]}
                yield infer(f"class-{name}-{count}-{is_binary}", "labels", body)
    for datatype, wire in TYPES.items():
        if wire in ("BYTES", "FP16"):  # the first ends tritonserver
            continue
        data = [True, False, True] if wire == "BOOL" else [1, 3, 2]
        output = {"name": "Y", "parameters": {"classification": 2}}
        body = {"inputs": [tensor("X", wire, [3], data)], "outputs": [output]}
        yield infer(f"class-{datatype}", f"ident_{datatype.lower()}", body)
    for number, values in enumerate(
        ([float("nan"), 1, 2], [float("inf"), 1, float("-inf")], [1e-30, 1e30, 123456789])
    ):
        output = {"name": "Y", "parameters": {"classification": 3}}
        body = {"inputs": [tensor("X", "FP32", [3], values)], "outputs": [output]}
        yield infer(f"class-value-{number}", "ident_fp32", body)
        body = {"inputs": [tensor("X", "FP32", [3], values)]}
        yield infer(f"value-{number}", "ident_fp32", body)


def http_routes(rng: random.Random) -> Iterator[Case]:
    """Methods, paths, versions, spellings."""
    models = (
        "addsub",
        "ver_specific",
        "ver_latest",
        "chain",
        "words",
        "nope",
        "staged",
        "ADDSUB",
        "add sub",
        "a%20b",
        "é",
    )
    tails = (
        "",
        "/ready",
        "/config",
        "/stats",
        "/trace/setting",
        "/infer",
        "/generate",
        "/generate_stream",
        "/x",
        "/",
    )
    versions = ("", "/versions/1", "/versions/3", "/versions/9", "/versions/0", "/versions/01",
    "/versions/-1",
                "/versions/x", "/versions/", "/versions", "/versions/1.0",
                "/versions/99999999999999999999")  # fmt: skip
    urls = [f"/v2/models/{m}{v}{t}" for m in models for v in versions for t in tails]
    urls = [url.replace(" ", "%20").replace("é", "%C3%A9") for url in urls]
    for url in urls:
        method = "POST" if url.endswith(("infer", "generate", "stream")) else "GET"
        body = "{}" if method == "POST" else None
        yield http(f"route-{url}", url, body, method, compare={"how": "json", "ignore": _TIMES})
    fixed = ["/v2", "/v2/", "/v1", "/", "/v2/health", "/v2/health/live", "/v2/health/ready", "/v2/models",
        "/v2/models/",
             "/v2/models/stats", "/v2/models/addsub/versions/1/", "/v2/logging", "/v2/trace/setting",
             "/v2/repository/index",
             "/v2/repository", "/v2/repository/models/addsub/load", "/v2/repository/models/addsub",
             "/v2/systemsharedmemory",
             "/v2/repository/x/index", "/v2/repository/x/models/addsub/load",
             "/v2/repository/models/addsub/reload",
             "/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/a/status",
             "/v2/systemsharedmemory/region/a/register",
             "/v2/systemsharedmemory/unregister", "/v2/systemsharedmemory/region/a/unregister",
             "/v2/cudasharedmemory/status",
             "/v2/cudasharedmemory/region/a/status", "/v2/cudasharedmemory/region/a/register",
             "/v2/cudasharedmemory/unregister",
             "/v2//models/addsub", "//v2", "/V2", "/v2/Models/addsub", "/v2/models//addsub",
             "/v2/models/addsub//ready",
             "/v2/models/addsub/ready?x=1", "/v2/./models/addsub", "/v2/models/../models/addsub",
             "/v3/models/addsub/infer"]  # fmt: skip
    for url in fixed:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            if method == "POST" and url.endswith("/load"):
                continue
            yield http(f"fixed-{method}-{url}", url, None, method, compare={"how": "json", "ignore": _TIMES})
    for url in rng.sample(urls, 60):
        for method in ("PUT", "DELETE", "POST", "PATCH", "OPTIONS"):
            yield http(f"verb-{method}-{url}", url, None, method, compare={"how": "json", "ignore": _TIMES})


#: Numbers that count what happened before, and times.
_TIMES = ["model_stats", "model_stats.*.last_inference"]


def http_compression() -> Iterator[Case]:
    """Bodies and replies that are compressed."""
    for compress in (None, "gzip", "deflate"):
        for named in (None, "gzip", "deflate", "identity", "br", "", "GZIP", "gzip, deflate", "x-gzip"):
            for accept in (None, "gzip", "deflate", "gzip, deflate", "deflate, gzip", "*", "identity",
                "br", "",
                           "gzip;q=0", "gzip;q=0.5, deflate;q=0.7", "gzip;q=0.5, *;q=0.7", "GZIP",
                           "identity;q=0", "x,gzip",
                           "gzip;q=x", "gzip; q=0.2 , deflate ;q=0.1"):  # fmt: skip
                if accept and named and named != compress:
                    continue
                headers = {} if named is None else {"Content-Encoding": named}
                headers |= {} if accept is None else {"Accept-Encoding": accept}
                more = {"compress": compress} if compress else {}
                yield infer(
                    f"compress-{compress}-{named}-{accept}", "addsub", add_sub(8), headers=headers, **more
                )
    for accept in ("gzip", "deflate"):
        for url in ("/v2", "/v2/models/addsub", "/v2/models/nope", "/v2/models/addsub/config"):
            yield http(f"compress-get-{accept}-{url}", url, headers={"Accept-Encoding": accept})
        body = add_sub(8, parameters={"binary_data_output": True})
        yield infer(f"compress-binary-{accept}", "addsub", body, headers={"Accept-Encoding": accept})
        url = "/v2/models/words/generate"
        yield http(
            f"compress-generate-{accept}", url, {"text_input": "a b"}, headers={"Accept-Encoding": accept}
        )


def http_generate() -> Iterator[Case]:
    """Text in, text out."""
    base = {
        "text_input": "one two",
        "stream": True,
        "max_tokens": 2,
        "parameters": {"prefix": "zero"},
        "id": "5",
    }
    for model in (
        "words",
        "addsub_nobatch",
        "repeat",
        "one_string",
        "optional",
        "script",
        "some",
        "labels",
        "upper",
    ):
        for tail in ("generate", "generate_stream"):
            url = f"/v2/models/{model}/{tail}"
            how = {"compare": {"how": "sse" if tail != "generate" else "json"}}
            bodies = [{}, {"text_input": "a"}, {"A": 1}, {"A": [1]}, {"A": "1"}, {"X": "a"}, {"X": ["a"]},
            {"IN": [1, 2]},
                      {"PROGRAM": "said = 1"}, {"X": [1, 2, 3, 4]}, {"INPUT0": [1, 2, 3, 4], "INPUT1": [1,
                      1, 1, 1]},
                      {"INPUT0": [1, 2], "INPUT1": 1}, {"TEXT": ["a", "b"]}, {"A": True}, {"A": 1.5},
                      {"A": None}, {"A": {}},
                      {"A": [[1]]}, {"A": []}, {"text_input": ["a", "b"]}, {"text_input": 1},
                      {"text_input": ""}]  # fmt: skip
            for number, body in enumerate(bodies):
                yield http(f"generate-{model}-{tail}-{number}", url, body, **copy.deepcopy(how))
    for tail in ("generate", "generate_stream"):
        for case in mutations(f"generate-words-{tail}", f"/v2/models/words/{tail}", base):
            if tail != "generate":
                case["compare"] = {"how": "sse"}
            yield case


def http_sequences(rng: random.Random) -> Iterator[Case]:
    """Sequences in random order, some of them wrong."""
    for run in range(40):
        model = rng.choice(("seq_direct", "seq_oldest"))
        steps = []
        ids: list[Json] = [1000 + run * 3, 1001 + run * 3] if rng.random() < 0.6 else [f"s{run}a", f"s{run}b"]
        for number in range(rng.randrange(2, 8)):
            flags: Json = {"sequence_id": rng.choice(ids)}
            if rng.random() < (0.7 if number < 2 else 0.15):
                flags["sequence_start"] = True
            if rng.random() < 0.3:
                flags["sequence_end"] = rng.choice((True, True, False))
            if rng.random() < 0.05:
                del flags["sequence_id"]
            rows = 2 if rng.random() < 0.05 else 1
            body = {"inputs": [tensor("IN", "INT32", [rows, 1], [number] * rows)], "parameters": flags}
            steps.append(infer(f"sequence-{run}-{number}", model, body))
        for id in ids:  # whatever is open is closed
            flags = {"sequence_id": id, "sequence_start": True, "sequence_end": True}
            body = {"inputs": [tensor("IN", "INT32", [1, 1], [0])], "parameters": flags}
            steps.append(infer(f"sequence-{run}-end-{id}", model, body))
        yield from scenario(f"sequence-{run}", steps)


def http_settings() -> Iterator[Case]:
    """Trace and log settings, statistics, index; whatever is set is set back."""
    trace = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "-1", "log_frequency": "0"}
    reset: Json = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
    for url in ("/v2/trace/setting", "/v2/models/addsub/trace/setting"):
        for number, case in enumerate(mutations(f"trace-{url}", url, trace)):
            yield from scenario(f"trace-{url}-{number}", [case, http(f"{case['id']}-reset", url, reset)])
    log = {
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    for number, case in enumerate(mutations("logging", "/v2/logging", log)):
        steps = [
            case,
            http(f"{case['id']}-read", "/v2/logging"),
            http(f"{case['id']}-reset", "/v2/logging", log),
        ]
        yield from scenario(f"logging-{number}", steps)
    for case in mutations("index", "/v2/repository/index", {"ready": True}):
        case["compare"]["how"] = "status"
        yield case


def http_shared_memory() -> Iterator[Case]:
    """System shared memory: registered, used, read, given back; and every way to get it wrong."""
    data = struct.pack("<4i", 1, 2, 3, 4)
    segment = {"key": "/beside_a", "byte_size": 4096, "b64": base64.b64encode(data * 2).decode()}
    base = "/v2/systemsharedmemory"
    good = {"key": "/beside_a", "offset": 0, "byte_size": 64}
    for number, case in enumerate(mutations("shm-register", f"{base}/region/r/register", good)):
        case["setup"] = {"shm": [segment]}
        last = http(
            f"{case['id']}-gone", f"{base}/unregister", "", "POST", setup={"shm_remove": ["/beside_a"]}
        )
        yield from scenario(f"shm-{number}", [case, http(f"{case['id']}-status", f"{base}/status"), last])
    places: list[Json] = [
        {"shared_memory_region": "r", "shared_memory_byte_size": 16},
        {"shared_memory_region": "r", "shared_memory_byte_size": 16, "shared_memory_offset": 16},
        {"shared_memory_region": "r", "shared_memory_byte_size": 16, "shared_memory_offset": 60},
        {"shared_memory_region": "r", "shared_memory_byte_size": 15},
        {"shared_memory_region": "r", "shared_memory_byte_size": 17},
        {"shared_memory_region": "r", "shared_memory_byte_size": 0},
        {"shared_memory_region": "r", "shared_memory_byte_size": -1},
        {"shared_memory_region": "r"},
        {"shared_memory_region": "x", "shared_memory_byte_size": 16},
        {"shared_memory_region": 1, "shared_memory_byte_size": 16},
        {"shared_memory_region": "r", "shared_memory_byte_size": "16"},
        {"shared_memory_region": "r", "shared_memory_byte_size": 16, "shared_memory_offset": -1},
        {"shared_memory_region": "r", "shared_memory_byte_size": 16, "shared_memory_offset": "0"},
        {"shared_memory_region": "r", "shared_memory_byte_size": 16, "binary_data_size": 16},
        {"shared_memory_byte_size": 16},
    ]
    for number, place in enumerate(places):
        first = http(
            f"shm-use-{number}-register", f"{base}/region/r/register", good, setup={"shm": [segment]}
        )
        given = tensor("INPUT1", "INT32", [4], [1, 1, 1, 1])
        from_there = {"name": "INPUT0", "datatype": "INT32", "shape": [4], "parameters": place}
        steps = [first, infer(f"shm-use-{number}", "addsub_nobatch", {"inputs": [from_there, given]})]
        body = {"inputs": [tensor("INPUT0", "INT32", [4], [1, 2, 3, 4]), given]}
        outputs = [{"name": "OUTPUT0", "parameters": place}, {"name": "OUTPUT1"}]
        read = {"shm_read": [{"key": "/beside_a", "byte_size": 64}]}
        steps.append(infer(f"shm-out-{number}", "addsub_nobatch", body | {"outputs": outputs}, setup=read))
        gone = {"shm_remove": ["/beside_a"]}
        steps.append(http(f"shm-use-{number}-gone", f"{base}/region/r/unregister", "", "POST", setup=gone))
        yield from scenario(f"shm-use-{number}", steps)


def http_repository() -> Iterator[Case]:
    """Loads and unloads."""
    url = "/v2/repository/models/echo"
    text = json.dumps({"backend": "python", "max_batch_size": 2,
                       "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}],
                       "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [4]}]})  # fmt: skip
    for number, case in enumerate(mutations("load", f"{url}/load", {"parameters": {"config": text}})):
        steps = [case, http(f"{case['id']}-config", "/v2/models/echo/config")]
        steps.append(http(f"{case['id']}-unload", f"{url}/unload", ""))
        yield from scenario(f"load-{number}", steps)
    for number, case in enumerate(
        mutations("unload", f"{url}/unload", {"parameters": {"unload_dependents": True}})
    ):
        yield from scenario(f"unload-{number}", [http(f"{case['id']}-load", f"{url}/load", "", "POST"), case])


def http_cases(seed: int) -> Iterator[Case]:
    """All of them, in an order that leaves the server as it was."""
    rng = random.Random(seed)
    yield from http_infer()
    yield from http_datatypes(rng)
    yield from http_binary()
    yield from http_outputs()
    yield from http_routes(rng)
    yield from http_compression()
    yield from http_generate()
    yield from http_sequences(rng)
    yield from http_settings()
    yield from http_shared_memory()
    yield from http_repository()
