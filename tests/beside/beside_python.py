"""What do models of the Python backend see and do? Programs that run inside both servers."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import beside_grpc as grpc
from beside_cases import Case, http, infer, program, rpc, scenario, stream, tensor

Json = Any
PROGRAMS = tomllib.loads(Path(__file__).with_name("programs.toml").read_text())


def _staged(id: str, parameters: dict[str, str], **more: Json) -> list[Case]:
    """Loaded with these programs, looked at, asked and unloaded."""
    document: Json = {
        "backend": "python",
        "max_batch_size": 0,
        "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}],
        "output": [{"name": "OUT", "data_type": "TYPE_STRING", "dims": [1]}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    document |= more
    url = "/v2/repository/models/staged"
    body: Json = {"inputs": [tensor("IN", "INT32", [1], [1])] if document["input"] else []}
    steps = [
        http(f"{id}-load", f"{url}/load", {"parameters": {"config": json.dumps(document)}}),
        http(f"{id}-config", "/v2/models/staged/config"),
        infer(f"{id}-infer", "staged", body),
        http(f"{id}-unload", f"{url}/unload", ""),
    ]
    return scenario(id, steps)


def python_cases(seed: int) -> Iterator[Case]:
    """All of them."""
    del seed
    plain, calls, streams = PROGRAMS["plain"], PROGRAMS["calls"], PROGRAMS["streams"]
    for name, text in plain.items():
        yield infer(f"python-{name}", "script", program(text))
    for name, text in calls.items():
        yield infer(f"python-{name}", "script", program(PROGRAMS["heads"]["calls"] + text))
    own = {"own": 1.5, "text": "x", "flag": True, "big": 2**40}
    facts = {"id": "7", "parameters": {"sequence_id": 3, "priority": 2, "timeout": 5000000, **own}}
    yield infer("python-facts", "script", program(plain["request-facts"], **facts))
    yield infer("python-outputs", "script", program(plain["request-outputs"], outputs=[{"name": "SAID"}]))
    for name in ("request-facts", "error-NOT_FOUND", "execute-raise", "response-parameters", "execute-none"):
        yield rpc(f"python-grpc-{name}", "ModelInfer", grpc.program(plain[name], id="7"))
    for name, text in streams.items():
        message = grpc.program(text, "script_decoupled", id="7", parameters={"own": {"int64_param": "5"}})
        yield stream(f"python-stream-{name}", [message], timeout=5)
        url = "/v2/models/script_decoupled/generate_stream"
        yield http(f"python-generate-{name}", url, {"PROGRAM": text}, compare={"how": "sse"})
    for number, text in enumerate(PROGRAMS["stages"]["auto"]):
        yield from _staged(f"python-auto-{number}", {"auto": text})
        yield from _staged(f"python-auto-bare-{number}", {"auto": text}, input=[], output=[])
    yield from _staged("python-no-inputs", {"execute": "said = len(request.inputs())"}, input=[])
    for number, (initialize, execute) in enumerate(PROGRAMS["stages"]["run"]):
        yield from _staged(f"python-stage-{number}", {"initialize": initialize, "execute": execute})
