"""Replay of recorded cases of TorchServe, and comparison of answers.

A case is one line of ``torchserve.jsonl``: a request over HTTP or gRPC, the answer of a real TorchServe, and
how they are compared (``README.md``). It knows the protocol, and nothing of Salver.
"""

import base64
import concurrent.futures
import copy
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import torchserve_stubs
from google.protobuf import json_format, message_factory
from waiting import PATIENCE_S

Case = dict[str, Any]
#: Headers that mean something to callers, beside those of the handlers of the cases.
KEPT = {
    *(
        "content-type",
        "cache-control",
        "pragma",
        "expires",
        "connection",
        "transfer-encoding",
        "x-request-id",
    ),
    *("allow", "ts_stream_next", "access-control-allow-origin", "access-control-allow-methods"),
    "access-control-allow-headers",
}
_ANY = "*"
_TIMEOUT_S = 60.0
_AGAIN_S = 0.1
_TOLERANCE = 1e-4
_KEY = re.compile(r"\{\{(KEY|FIRST_KEY):(\w+)\}\}")
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? \S+")


class Target(NamedTuple):
    """A server.

    Attributes:
        ports: Of the loopback interface: ``inference``, ``management``, ``metrics``, ``grpc-inference`` and
            ``grpc-management``.
        folder: Holds its stores, and ``key_file.json``.
        first_keys: As they were when it had started.
    """

    ports: Mapping[str, int]
    folder: Path
    first_keys: Mapping[str, str] = {}

    def keys(self) -> dict[str, str]:
        """Return the current tokens by kind."""
        try:
            told = json.loads((self.folder / "key_file.json").read_text())
        except (OSError, ValueError):
            return {}
        return {kind: value.get("key", "") for kind, value in told.items() if isinstance(value, dict)}

    def filled(self, value: Any) -> Any:
        """Replace ``{{…}}`` by folders and keys."""
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        if not isinstance(value, str) or "{{" not in value:
            return value
        for name, path in self._folders():
            value = value.replace(name, path)
        return _KEY.sub(lambda m: (self.keys() if m[1] == "KEY" else self.first_keys).get(m[2], ""), value)

    def hidden(self, text: str) -> str:
        """Replace folders by ``{{…}}``."""
        for name, path in self._folders():
            text = text.replace(path, name)
        return text

    def _folders(self) -> Iterator[tuple[str, str]]:
        yield "{{MODELS}}", str(self.folder / "models")
        yield "{{FIXTURES}}", str(self.folder)


def load(path: Path) -> list[Case]:
    """Every case of a file, in its order."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def in_blocks(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """Single cases by id, and scenarios, whose steps go together, by configuration and name."""
    blocks: dict[str, list[Case]] = {}
    for case in cases:
        name = f"{case['config']}: {case['scenario']}" if case.get("scenario") else case["id"]
        blocks.setdefault(name, []).append(case)
    return blocks


def run_block(target: Target, block: Sequence[Case]) -> dict[str, str]:
    """Ask the cases in order; what is wrong with their answers, by id."""
    wrong: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        beside = []
        for case in block:
            if case.get("background"):
                beside.append((case, threads.submit(ask, target, case)))
            elif reason := _until(target, case):
                wrong[case["id"]] = reason
        for case, future in beside:
            if reason := difference(case, future.result()):
                wrong[case["id"]] = reason
    return wrong


def _until(target: Target, case: Case) -> str:
    """Ask, again and again as long as the case allows it, until the answer is the recorded one."""
    end = time.monotonic() + (PATIENCE_S if case.get("poll_s") else 0)
    time.sleep(case.get("after_s", 0))
    while True:
        reason = difference(case, ask(target, case, waits=False))
        if not reason or time.monotonic() >= end:
            return reason
        time.sleep(_AGAIN_S)


def ask(target: Target, case: Case, *, waits: bool = True) -> Case:
    """Return the answer, or those of all copies if the case wants several."""
    if waits:
        time.sleep(case.get("after_s", 0))
    one: Callable[[Target, Case], Case] = _ask_http if case["kind"] == "http" else _ask_grpc
    copies = case.get("copies", 1)
    with concurrent.futures.ThreadPoolExecutor(copies) as threads:
        answers = list(threads.map(lambda _: one(target, case), range(copies)))
    others = [answer for answer in answers if answer != answers[0]]
    return {**answers[0], "differing": others} if others else answers[0]


# HTTP.


def _bytes_of(part: Case) -> bytes:
    if "body_b64" in part:
        return base64.b64decode(part["body_b64"])
    if "body_repeat" in part:
        return str(part["body_repeat"]["text"] * part["body_repeat"]["times"]).encode()
    return str(part.get("body", "")).encode()


def _ask_http(target: Target, case: Case) -> Case:
    """Send a request as recorded, with only Host and Content-Length added."""
    request = target.filled(case["request"])
    port = target.ports[case["port"]]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=case.get("timeout_s", _TIMEOUT_S))
    body, headers = _bytes_of(request), dict(request.get("headers", {}))
    has_body = bool({"body", "body_b64", "body_repeat"} & request.keys())
    if has_body or request["method"] in ("POST", "PUT"):
        headers.setdefault("Content-Length", str(len(body)))
    try:
        connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
        for key, value in headers.items():
            connection.putheader(key, value)
        connection.endheaders(body or None)
        reply = connection.getresponse()
        raw = reply.read()
    except TimeoutError:
        return {"status": "no reply"}
    except (http.client.HTTPException, OSError) as error:
        return {"status": "connection closed", "error": repr(error)}
    finally:
        connection.close()
    kept = {name.lower(): value for name, value in reply.getheaders()}
    kept = {name: value for name, value in kept.items() if name in KEPT or name.startswith("x-gold")}
    if "x-request-id" in kept:
        kept["x-request-id"] = _ANY  # each has its own
    answer = {"status": reply.status, "reason": reply.reason, "headers": kept}
    try:
        return {**answer, "body": target.hidden(raw.decode())}
    except UnicodeDecodeError:
        return {**answer, "body_b64": base64.b64encode(raw).decode()}


# gRPC.


def _ask_grpc(target: Target, case: Case) -> Case:
    request = target.filled(case["request"])
    pool = torchserve_stubs.pool()
    service, name = request["rpc"].rsplit("/", 1)
    method = pool.FindServiceByName(service).methods_by_name[name]
    into, out = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
    sent = [json_format.ParseDict(message, into(), descriptor_pool=pool) for message in request["messages"]]
    side = request.get("at") or ("grpc-management" if "management" in service else "grpc-inference")

    def slowly() -> Iterator[Any]:
        for index, message in enumerate(sent):
            time.sleep(request.get("pause_s", 0) if index else 0)
            yield message
        time.sleep(request.get("linger_s", 1.0))

    got: list[Any] = []
    with grpc.insecure_channel(f"127.0.0.1:{target.ports[side]}") as channel:
        kind = ["unary", "stream"]
        call = getattr(channel, f"{kind[method.client_streaming]}_{kind[method.server_streaming]}")(
            f"/{service}/{name}", into.SerializeToString, out.FromString
        )
        try:
            answer = call(
                slowly() if method.client_streaming else sent[0],
                timeout=case.get("timeout_s", _TIMEOUT_S),
                metadata=list(request.get("metadata", {}).items()),
            )
            for message in answer if method.server_streaming else [answer]:
                got.append(_as_json(message, pool))
        except grpc.RpcError as error:
            failure = {"code": error.code().name, "details": target.hidden(error.details() or "")}
            return {**failure, "messages": got} if got else failure
    hidden: Case = json.loads(target.hidden(json.dumps({"messages": got})))
    return hidden


def _as_json(message: Any, pool: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool)


# Comparison.


def difference(case: Case, got: Case) -> str:
    """Return why an answer differs, or nothing."""
    if case["compare"]["how"] == "any":
        return ""
    if got.get("differing"):
        return f"parallel copies differ: {got['differing'][0]}"
    return _of_http(case, got) if case["kind"] == "http" else _of_grpc(case, got)


def _of_grpc(case: Case, got: Case) -> str:
    want, rule = case["response"], case["compare"]
    ignored = rule.get("ignore", [])
    codes = [side.get("code", "OK") for side in (want, got)]
    if "code" not in ignored and codes[0] != codes[1]:
        return f"code: want {codes[0]}, got {codes[1]} ({got.get('details')})"
    if rule.get("text") and want.get("details") != got.get("details"):
        return f"details: want {want.get('details')!r}, got {got.get('details')!r}"
    if rule["how"] == "status":
        return ""
    sides = [{"messages": _opened(side["messages"])} if "messages" in side else {} for side in (want, got)]
    return _differs(*_without(sides, ignored), is_subset=rule["how"] == "proto-subset")


def _of_http(case: Case, got: Case) -> str:
    want, rule = case["response"], case["compare"]
    ignored = rule.get("ignore", [])
    if want["status"] != got["status"]:
        return f"status: want {want['status']}, got {got['status']} {str(got.get('body', got))[:300]}"
    if "reason" in want and want["reason"] != got["reason"]:
        return f"reason: want {want['reason']!r}, got {got['reason']!r}"
    for name, value in want.get("headers", {}).items():
        given = got["headers"].get(name)
        if f"headers.{name}" not in ignored and (given is None or value not in (_ANY, given)):
            return f"header {name}: want {value!r}, got {given!r}"
    match rule["how"]:
        case "status":
            return ""
        case "metrics-names":
            return _differs(want["metrics"], _metrics(got.get("body", "")), is_subset=True)
        case "exact":
            bodies = _bytes_of(want), _bytes_of(got)
            return (
                "" if bodies[0] == bodies[1] else f"body: want {bodies[0][:300]!r}, got {bodies[1][:300]!r}"
            )
    try:
        sides = [json.loads(_bytes_of(side)) for side in (want, got)]
    except ValueError:
        return f"body: want JSON, got {_bytes_of(got)[:300]!r}"
    if not rule.get("text") and isinstance(sides[0], dict) and sides[0].keys() == {"code", "type", "message"}:
        ignored = [*ignored, "message"]
    return _differs(*_without(sides, ignored), is_subset=rule["how"] == "json-subset")


def _opened(messages: Sequence[Case]) -> list[Case]:
    """Parse JSON inside an answer, as text or as the bytes of a prediction."""
    found = []
    for message in copy.deepcopy(list(messages)):
        for key in message.keys() & {"msg", "health", "prediction"}:
            try:
                text = base64.b64decode(message[key]) if key == "prediction" else message[key]
                message[key] = json.loads(text)
            except ValueError:
                pass
        found.append(message)
    return found


def _metrics(text: str) -> dict[str, list[str]]:
    """Names of labels, by metric."""
    found = {}
    for line in text.splitlines():
        if sample := _SAMPLE.match(line):
            found[sample[1]] = sorted(re.findall(r'(\w+)="', sample[2] or ""))
    return found


def _without(sides: Sequence[Any], paths: Sequence[str]) -> list[Any]:
    """Copies without what dotted paths name; ``*`` is any key or index."""
    found = copy.deepcopy(list(sides))
    for side in found:
        for path in paths:
            _drop(side, path.split("."))
    return found


def _drop(value: Any, steps: Sequence[str]) -> None:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        if steps[0] not in (_ANY, str(key)):
            continue
        if len(steps) > 1:
            _drop(value[key], steps[1:])
        elif isinstance(value, dict):
            del value[key]
        else:
            value[key] = None


def _differs(want: Any, got: Any, *, is_subset: bool, at: str = "$") -> str:
    """Return the first difference of two JSON values."""
    if isinstance(want, dict) and isinstance(got, dict):
        lost, more = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
        if lost or (more and not is_subset):
            return f"{at}: missing {lost}, not expected {[] if is_subset else more}"
        pairs = [(f"{at}.{key}", want[key], got[key]) for key in want]
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            return f"{at}: want {len(want)} elements, got {len(got)}: {str(got)[:300]}"
        pairs = [(f"{at}.{i}", a, b) for i, (a, b) in enumerate(zip(want, got, strict=True))]
    else:
        return "" if _is_same(want, got) else f"{at}: want {want!r}, got {got!r}"
    reasons = (_differs(a, b, is_subset=is_subset, at=path) for path, a, b in pairs)
    return next(filter(None, reasons), "")


def _is_same(want: Any, got: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (want, got))
    if not numbers:
        return type(want) is type(got) and bool(want == got)
    both_nan = want != want and got != got
    return want == got or both_nan or abs(want - got) <= _TOLERANCE * max(1, abs(want))
