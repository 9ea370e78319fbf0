"""Calls of KServe's own clients, run by the Python of ``.envs/kserve``: JSON on standard input and output.

``make .envs/kserve/requirements.txt`` puts the ``kserve`` package where it is looked for. A call has
``port``, ``model``, ``data`` and ``how``: v1, v2, grpc, raw (v2 with binary tensors), event (a
CloudEvent to v1) or health. What goes over gRPC and as raw is the document of v2, of flat tensors.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = Path(__file__).parents[2] / ".envs" / "kserve" / "bin" / "python"


def answers(calls: list[dict[str, Any]]) -> list[Any]:
    """Return the answer of each call: predictions, or the first output's values."""
    done = subprocess.run(
        [str(PYTHON), __file__], input=json.dumps(calls), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


async def _call(how: str, port: int, model: str, data: Any) -> Any:
    import kserve
    from kserve.constants.constants import PredictorProtocol

    url, headers = f"http://127.0.0.1:{port}", {"Host": f"{model}.default.example.com"}
    if how == "v1":
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=PredictorProtocol.REST_V1))
        return (await client.infer(url, data, model_name=model, headers=headers))["predictions"]
    if how == "event":
        return await _event(f"{url}/v1/models/{model}:predict", data)
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=PredictorProtocol.REST_V2))
    if how == "v2":
        answer = await client.infer(url, data, model_name=model, headers=headers)
        return answer.outputs[0].as_numpy().tolist()
    grpc = kserve.InferenceGRPCClient(url=f"127.0.0.1:{port}")
    if how == "health":
        asked = [client.is_server_live(url), client.is_server_ready(url), client.is_model_ready(url, model)]
        asked += [grpc.is_server_live(), grpc.is_server_ready(), grpc.is_model_ready(model)]
        return [await each for each in asked]
    inputs = [kserve.InferInput(**each) for each in data["inputs"]]
    for tensor in inputs:
        if how == "raw":
            tensor.set_data_from_numpy(np.array(tensor.data, np.float32).reshape(tensor.shape))
        elif tensor.datatype == "BYTES":
            tensor.data = [value.encode() for value in tensor.data]
    request = kserve.InferRequest(
        model_name=model, infer_inputs=inputs, request_id="r-1", parameters=data.get("parameters", {})
    )
    if how == "raw":
        answer = await client.infer(url, request, model_name=model, headers=headers)
    else:
        answer = await grpc.infer(request)
    assert answer.id == "r-1"
    return answer.outputs[0].as_numpy().tolist()


async def _event(url: str, data: Any) -> Any:
    """Send an event in binary mode, and read the answer, with the library of KServe's servers."""
    import httpx
    from cloudevents.http import CloudEvent, from_http, to_binary

    headers, body = to_binary(CloudEvent({"type": "flowers", "source": "tests", "id": "mine"}, data))
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, headers=dict(headers), content=body)
    event = from_http(dict(answer.headers), answer.content)
    return [event["type"], event["source"], event.data["predictions"]]


async def _main() -> None:
    print(json.dumps([await _call(**call) for call in json.load(sys.stdin)]))


if __name__ == "__main__":
    asyncio.run(_main())
