"""How is a recorded case asked again, and is the answer alike?

A case is one line of ``triton.jsonl``: a request over HTTP or gRPC, the answer of a real Triton, and how they
are compared (``README.md``). It knows the protocol, and nothing of Salver.
"""

import base64
import gzip
import http.client
import json
import math
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from tritonclient.grpc import service_pb2 as pb

Case = dict[str, Any]
_TIMEOUT_S = 30.0
_LENGTH = "inference-header-content-length"
_ANY_TEXT = "(any text)"
_DROP = object()


def load(path: Path) -> list[Case]:
    """Every case of a file, in its order."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def in_blocks(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Single cases by id, and scenarios, whose steps go together, by name."""
    blocks: dict[str, list[Case]] = {}
    for case in cases:
        blocks.setdefault(case.get("scenario") or case["id"], []).append(case)
    for block in blocks.values():
        block.sort(key=lambda case: case.get("step", 0))
    return blocks


def run_block(ports: Mapping[str, int], block: Sequence[Case]) -> dict[str, str]:
    """Ask the cases in order; what is wrong with their answers, by id.

    Args:
        ports: Of the loopback interface, by the targets that cases name: ``http``, ``grpc`` and others.
    """
    answers: dict[str, Case] = {}
    beside: list[threading.Thread] = []

    def ask(case: Case) -> None:
        if case.get("sleep_before"):
            time.sleep(case["sleep_before"])
        answers[case["id"]] = _ask(ports, case)

    for case in block:
        if case.get("join"):
            for thread in beside:
                thread.join(_TIMEOUT_S)
        if case.get("async"):
            beside.append(threading.Thread(target=ask, args=(case,), daemon=True))
            beside[-1].start()
            time.sleep(case.get("head_start", 0.05))
        else:
            ask(case)
    for thread in beside:
        thread.join(_TIMEOUT_S)
    wrong = {}
    for case in block:
        answer = answers.get(case["id"])
        reason = "no answer in time" if answer is None else difference(case, answer)
        if reason:
            wrong[case["id"]] = reason
    return wrong


def _ask(ports: Mapping[str, int], case: Case) -> Case:
    request, setup = case["request"], case.get("setup", {})
    for segment in setup.get("shm", []):
        data = base64.b64decode(segment.get("b64", ""))
        _segment(segment["key"]).write_bytes(data.ljust(segment.get("byte_size", len(data)), b"\0"))
    port = ports[request.get("target", case["kind"])]
    answer = _ask_http(port, request) if case["kind"] == "http" else _ask_grpc(port, request)
    for segment in setup.get("shm_read", []):
        begin = segment.get("offset", 0)
        data = _segment(segment["key"]).read_bytes()[begin : begin + segment["byte_size"]]
        answer.setdefault("shm", {})[segment["key"]] = base64.b64encode(data).decode()
    for key in setup.get("shm_remove", []):
        _segment(key).unlink(missing_ok=True)
    return answer


def _segment(key: str) -> Path:
    return Path("/dev/shm", key.lstrip("/"))


# HTTP.


def _bytes_of(part: Case) -> bytes:
    if "body_b64" in part:
        return base64.b64decode(part["body_b64"])
    if "body_json" in part:
        return json.dumps(part["body_json"]).encode()
    if "body_repeat" in part:
        repeat = part["body_repeat"]
        return (repeat.get("head", "") + repeat["text"] * repeat["times"] + repeat.get("tail", "")).encode()
    return bytes(part.get("body", "").encode())


def _ask_http(port: int, request: Case) -> Case:
    """As recorded; nothing is added but Host and, unless told otherwise, Content-Length."""
    if "raw" in request or "raw_b64" in request:
        raw = base64.b64decode(request["raw_b64"]) if "raw_b64" in request else request["raw"].encode()
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(raw.replace(b"{HOST}", b"127.0.0.1:%d" % port))
            reply = http.client.HTTPResponse(connection, method=request.get("method", "GET"))
            reply.begin()
            return _read(reply)
    body, headers = _bytes_of(request), request.get("headers") or {}
    if request.get("compress"):
        body = gzip.compress(body) if request["compress"] == "gzip" else zlib.compress(body)
    is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        is_sized = is_chunked or "content-length" in map(str.lower, headers)
        if not is_sized and (body or request["method"] in ("POST", "PUT", "PATCH")):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if is_chunked:
            size = request.get("chunk_size", 64)
            body = b"".join(
                b"%x\r\n%s\r\n" % (len(part), part)
                for part in (body[at : at + size] for at in range(0, len(body), size))
            )
            body += b"0\r\n\r\n"
        if body:
            connection.send(body)
        return _read(connection.getresponse())
    finally:
        connection.close()


def _read(reply: http.client.HTTPResponse) -> Case:
    headers = {name.lower(): value for name, value in reply.getheaders()}
    body = reply.read()
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    elif headers.get("content-encoding") == "deflate":
        body = zlib.decompress(body)
    return {"status": reply.status, "headers": headers, "body_b64": base64.b64encode(body).decode()}


# gRPC.


def _health() -> tuple[Any, Any]:
    """The messages of grpc.health.v1, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="golden.proto", package="grpc.health.v1", syntax="proto3")
    file.message_type.add(name="Request").field.add(name="service", number=1, type=9, label=1)
    status = file.message_type.add(name="Response")
    names = status.enum_type.add(name="Status")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        names.value.add(name=name, number=number)
    kind = ".grpc.health.v1.Response.Status"
    status.field.add(name="status", number=1, type=14, label=1, type_name=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.{name}"))
        for name in ("Request", "Response")
    )
    return request, response


_HEALTH = _health()
_CHANNELS: dict[int, grpc.Channel] = {}
_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


def _ask_grpc(port: int, request: Case) -> Case:
    if port not in _CHANNELS:
        _CHANNELS[port] = grpc.insecure_channel(f"127.0.0.1:{port}")
    service, rpc = request.get("service", "inference.GRPCInferenceService"), request["rpc"]
    is_stream = rpc == "ModelStreamInfer"
    if service == "grpc.health.v1.Health":
        asked, answered = _HEALTH
    elif is_stream:
        asked, answered = pb.ModelInferRequest, pb.ModelStreamInferResponse
    else:
        asked, answered = getattr(pb, f"{rpc}Request"), getattr(pb, f"{rpc}Response")
    form = (asked.SerializeToString, answered.FromString)
    options = {
        "timeout": request.get("timeout", _TIMEOUT_S),
        "metadata": [tuple(pair) for pair in request.get("metadata", [])] or None,
        "compression": _COMPRESSION.get(request.get("compression", "")),
    }
    channel, path = _CHANNELS[port], f"/{service}/{rpc}"
    got: list[Any] = []

    def feed() -> Iterable[Any]:
        for index, message in enumerate(request["messages"]):
            time.sleep(request.get("gap_s", 0) if index else 0)
            yield json_format.ParseDict(message, asked())

    try:
        if is_stream:
            call = channel.stream_stream(path, *form)(feed(), **options)
            for message in call:
                got.append(message)
                if len(got) == request.get("cancel_after"):
                    call.cancel()
                    break
        else:
            message = json_format.ParseDict(request.get("message", {}), asked())
            if rpc == "Watch":
                got.extend(channel.unary_stream(path, *form)(message, **options))
            else:
                got.append(channel.unary_unary(path, *form)(message, **options))
        end = {"code": "OK"}
    except grpc.RpcError as error:
        end = {"code": error.code().name, "details": error.details()}
    as_json = [json_format.MessageToDict(message, preserving_proto_field_name=True) for message in got]
    return {"messages": as_json, **end}


# Comparison.


def difference(case: Case, got: Case) -> str:
    """Why the answer is not alike, or nothing."""
    found = _differs_http(case, got) if case["kind"] == "http" else _differs_grpc(case, got)
    if not found and "shm" in case["response"]:
        found = _differs(case["response"]["shm"], got.get("shm"), _Rules(case))
    return found


class _Rules:
    """How a case wants its answer compared."""

    def __init__(self, case: Case) -> None:
        how = case.get("compare", {})
        self.how = how.get("how", "json")
        self.ignore = how.get("ignore", [])
        self.unordered = how.get("unordered", [])
        self.text = how.get("text", False)
        self.by_id = how.get("by_id", False)
        self.statuses = how.get("status_any")
        self.headers = {name.lower() for name in how.get("ignore_headers", [])}
        self.is_subset = self.how in ("json-subset", "proto-subset")


def _differs_http(case: Case, got: Case) -> str:
    want, rules = case["response"], _Rules(case)
    body = _bytes_of(got)
    statuses = rules.statuses or [want["status"]]
    if got["status"] not in statuses:
        return f"status: want {statuses}, got {got['status']} {_short(body.decode(errors='replace'))}"
    if rules.how == "status" or rules.statuses:
        return ""
    wanted = _bytes_of(want)
    if found := _differs_headers(want, got["headers"], rules, bool(wanted)):
        return found
    if rules.how == "exact":
        return "" if wanted == body else f"body: want {_short(wanted)}, got {_short(body)}"
    if rules.how == "metrics-names":
        gone = _metrics(wanted) - _metrics(body)
        return f"metrics missing: {sorted(gone)}" if gone else ""
    if rules.how == "sse":
        return _differs(_events(wanted, rules.text), _events(body, rules.text), rules)
    if not wanted:
        return f"body: want none, got {_short(body)}" if body else ""
    head, tail = _split(wanted, _lower(want.get("headers", {})))
    try:
        mine, rest = _split(body, got["headers"])
    except ValueError:
        return f"body: want JSON, got {_short(body)}"
    if tail != rest:
        return f"binary part: want {_short(tail)}, got {_short(rest)}"
    return _differs(_softened(head, rules.text), _softened(mine, rules.text), rules)


def _differs_headers(want: Case, got: Mapping[str, str], rules: _Rules, has_body: bool) -> str:
    skip = rules.headers | {_LENGTH, "transfer-encoding"}
    if want["status"] >= 400 or rules.how == "metrics-names" or not has_body:
        skip |= {"content-type"}  # clients go by the status
    wanted = _lower(want.get("headers", {}))
    for name, value in wanted.items():
        mine = got.get(name)
        if name not in skip and (mine or "").lower().replace(" ", "") != value.lower().replace(" ", ""):
            return f"header {name}: want {value!r}, got {mine!r}"
    for name in ("content-encoding", _LENGTH):
        if (name in wanted) != (name in got) and name not in rules.headers:
            return f"header {name} is {'missing' if name in wanted else 'not expected'}"
    return ""


def _differs_grpc(case: Case, got: Case) -> str:
    want, rules = case["response"], _Rules(case)
    code = want.get("code", "OK")
    if code != got["code"]:
        return f"code: want {code}, got {got['code']} {got.get('details', '')}"
    if rules.how == "status":
        return ""
    if code != "OK" and rules.text and want.get("details") != got.get("details"):
        return f"details: want {want.get('details')!r}, got {got.get('details')!r}"
    wanted, mine = want.get("messages", []), got["messages"]
    if not rules.text:
        wanted, mine = ([_softened(m, False) for m in side] for side in (wanted, mine))
    if rules.by_id:
        wanted, mine = (sorted(side, key=_reply_id) for side in (wanted, mine))
    return _differs(wanted, mine, rules, ("messages",))


def _reply_id(message: Any) -> str:
    return str(message.get("infer_response", message).get("id", ""))


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _split(body: bytes, headers: Mapping[str, str]) -> tuple[Any, bytes]:
    length = int(headers.get(_LENGTH, len(body)))
    return (json.loads(body[:length]) if length else None), body[length:]


def _events(body: bytes, is_text: bool) -> list[Any]:
    events = []
    for block in re.split(r"\r?\n\r?\n", body.decode(errors="replace")):
        lines = [line[5:].lstrip(" ") for line in block.splitlines() if line.startswith("data:")]
        if lines:
            try:
                events.append(_softened(json.loads("\n".join(lines)), is_text))
            except ValueError:
                events.append("\n".join(lines))
    return events


def _metrics(text: bytes) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in text.decode().splitlines() if line and line[0] != "#"}


def _softened(value: Any, is_text: bool) -> Any:
    """With any wording of an error where the wording does not matter."""
    if is_text or not isinstance(value, dict):
        return value
    errors = ("error", "error_message", "message", "detail")
    return {k: _ANY_TEXT if k in errors and isinstance(v, str) and v else v for k, v in value.items()}


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """``*`` is one step, ``**`` any number of steps."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _matches(pattern[1:], path) or (bool(path) and _matches(pattern, path[1:]))
    return bool(path) and pattern[0] in ("*", path[0]) and _matches(pattern[1:], path[1:])


def _is_named(patterns: Sequence[str], path: Sequence[Any]) -> bool:
    steps = [str(step) for step in path]
    return any(_matches(pattern.split("."), steps) for pattern in patterns)


def _differs(want: Any, got: Any, rules: _Rules, path: tuple[Any, ...] = ()) -> str:
    if path and _is_named(rules.ignore, path):
        return ""
    at = ".".join(map(str, path)) or "the whole"
    if isinstance(want, dict) and isinstance(got, dict):
        for key in want.keys() | got.keys():
            if key not in got or (key not in want and not rules.is_subset):
                if not _is_named(rules.ignore, (*path, key)):
                    return f"{at}: {key!r} is {'not expected' if key in got else 'missing'}"
            elif key in want and (found := _differs(want[key], got[key], rules, (*path, key))):
                return found
        return ""
    if isinstance(want, list) and isinstance(got, list):
        return _differs_list(want, got, rules, path)
    return "" if _is_same(want, got) else f"{at}: want {_short(want)}, got {_short(got)}"


def _differs_list(want: list[Any], got: list[Any], rules: _Rules, path: tuple[Any, ...]) -> str:
    at = ".".join(map(str, path)) or "the whole"
    is_bag = rules.is_subset and want and all(isinstance(value, dict) for value in want)
    if is_bag or _is_named(rules.unordered, path):
        rest = list(got)
        for value in want:
            alike = next((g for g in rest if not _differs(value, g, rules, (*path, "*"))), _DROP)
            if alike is _DROP:
                return f"{at}: nothing like {_short(value)}"
            rest.remove(alike)
        return f"{at}: {_short(rest[0])} is not expected" if rest and not rules.is_subset else ""
    if len(want) != len(got):
        return f"{at}: want {len(want)} elements, got {len(got)}"
    for index, (mine, theirs) in enumerate(zip(want, got, strict=True)):
        if found := _differs(mine, theirs, rules, (*path, index)):
            return found
    return ""


def _is_same(want: Any, got: Any) -> bool:
    if isinstance(want, bool) or isinstance(got, bool):
        return want is got
    if isinstance(want, float | int) and isinstance(got, float | int):
        if isinstance(want, int) and isinstance(got, int):
            return want == got
        return math.isclose(want, got, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(want) and math.isnan(got))
    return type(want) is type(got) and want == got


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
