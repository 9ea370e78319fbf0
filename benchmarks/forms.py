"""In what form is a question put to a server, and how is its answer read?

A form is one route with its headers, an encoder of an input row and a reader of the reply. The
same bytes go through ``wrk`` or ``h2load`` for the load and through a plain client for the checks.
"""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import frames
import grpc
import numpy as np
from models import Floats, Model

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Form:
    """One way to ask one model.

    Attributes:
        transport: ``http`` (HTTP/1.1, keep-alive) or ``grpc``.
        encode: Input row -> body or unframed message.
        decode: Body or message, reply headers -> output values, flat.
        port_offset: What is added to the server's first port.
    """

    transport: str
    path: str
    encode: Callable[[Floats], bytes]
    decode: Callable[[bytes, Headers], Floats]
    headers: Headers = field(default_factory=dict)
    port_offset: int = 0


class WrongAnswer(Exception):
    """A reply came that bare ONNX Runtime would not give."""


class Client:
    """Asks a form's question over one kept connection and checks the answer."""

    def __init__(self, form: Form, model: Model, port: int) -> None:
        self._form, self._model, self._port = form, model, port + form.port_offset
        self._bodies = [form.encode(row) for row in model.samples]
        self._http: http.client.HTTPConnection | None = None
        self._channel: Any = None

    def check(self, which: int = 1, timeout: float = 20) -> None:
        """Ask once.

        Raises:
            WrongAnswer: for a status other than OK, or other values.
            OSError, http.client.HTTPException, grpc.RpcError: no reply at all.
        """
        body, headers = self.ask(self._bodies[which], timeout)
        try:
            got = np.asarray(self._form.decode(body, headers), np.float32).ravel()
        except Exception as error:
            raise WrongAnswer(f"unreadable reply {body[:200]!r}: {error!r}") from error
        want = self._model.answers[which].ravel()
        if got.shape != want.shape or not np.allclose(got, want, rtol=1e-3, atol=1e-4):
            raise WrongAnswer(f"answered {got[:4]}, ONNX Runtime says {want[:4]}")

    def ask(self, body: bytes, timeout: float = 20) -> tuple[bytes, Headers]:
        """The reply to a body, with its headers; raises as ``check``."""
        ask = self._ask_http if self._form.transport == "http" else self._ask_grpc
        return ask(body, timeout)

    def _ask_http(self, body: bytes, timeout: float) -> tuple[bytes, Headers]:
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            self._http.request("POST", self._form.path, body, dict(self._form.headers))
            reply = self._http.getresponse()
            got = reply.read()
        except Exception:
            self.close()
            raise
        if reply.status != 200:
            raise WrongAnswer(f"HTTP {reply.status}: {got[:200]!r}")
        return got, {name.lower(): value for name, value in reply.getheaders()}

    def _ask_grpc(self, body: bytes, timeout: float) -> tuple[bytes, Headers]:
        if self._channel is None:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self._port}", options)
        metadata = tuple((name.lower(), value) for name, value in self._form.headers.items())
        return self._channel.unary_unary(self._form.path)(body, timeout=timeout, metadata=metadata), {}

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def reason(error: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(error, grpc.Call):
        return f"gRPC {error.code().name}: {error.details()}"
    return str(error) or type(error).__name__


def is_right(form: Form, model: Model, port: int, which: int = 1) -> bool:
    """True once the server gives the right answer; what it says before does not matter."""
    client = Client(form, model, port)
    try:
        client.check(which, timeout=2)
    except (WrongAnswer, OSError, http.client.HTTPException, grpc.RpcError):
        return False
    finally:
        client.close()
    return True


# The Open Inference Protocol, which half of the systems speak --------------------------------------


def _described(model: Model) -> dict[str, Any]:
    return {"name": "x", "shape": [1, *model.shape], "datatype": "FP32"}


def oip_json(model: Model, **form: Any) -> Form:
    def encode(row: Floats) -> bytes:
        return json.dumps({"inputs": [{**_described(model), "data": row.ravel().tolist()}]}).encode()

    def decode(body: bytes, headers: Headers) -> Floats:
        return np.asarray(json.loads(body)["outputs"][0]["data"], np.float32)

    path = f"/v2/models/{model.name}/infer"
    return Form("http", path, encode, decode, {"content-type": "application/json"}, **form)


def oip_binary(model: Model, **form: Any) -> Form:
    """With the binary tensor extension, both ways."""
    asked = {**_described(model), "parameters": {"binary_data_size": 4 * int(np.prod(model.shape))}}
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [asked], "outputs": [wanted]}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}

    def decode(body: bytes, headers: Headers) -> Floats:
        length = int(headers.get("inference-header-content-length", len(body)))
        if length == len(body):
            return np.asarray(json.loads(body)["outputs"][0]["data"], np.float32)
        return np.frombuffer(body[length:], np.float32)

    path = f"/v2/models/{model.name}/infer"
    return Form("http", path, lambda row: head + row.tobytes(), decode, headers, **form)


def oip_grpc(model: Model, **form: Any) -> Form:
    """ModelInfer with raw contents."""

    def encode(row: Floats) -> bytes:
        request = frames.InferRequest(model_name=model.name, raw_input_contents=[row.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, *model.shape])
        return bytes(request.SerializeToString())

    def decode(message: bytes, headers: Headers) -> Floats:
        reply = frames.InferResponse.FromString(message)
        if reply.raw_output_contents:
            return np.frombuffer(reply.raw_output_contents[0], np.float32)
        return np.asarray(reply.outputs[0].contents.fp32_contents, np.float32)

    return Form("grpc", frames.INFER_PATH, encode, decode, **form)


def oip(model: Model, **grpc_form: Any) -> dict[str, Form | str]:
    """HTTP with JSON for the small models and raw tensors for images, images in JSON, and gRPC."""
    web = oip_binary(model) if model.is_image else oip_json(model)
    return {"http": web, "json": oip_json(model), "grpc": oip_grpc(model, **grpc_form)}


# Servers without a protocol: JSON rows, or raw bytes where the payload is large --------------------


def rows_json(path: str, key: str = "rows") -> Form:
    """``{key: [[...]]}`` in, ``{key: [[...]]}`` out."""

    def encode(row: Floats) -> bytes:
        return json.dumps({key: row.tolist()}).encode()

    def decode(body: bytes, headers: Headers) -> Floats:
        return np.asarray(json.loads(body)[key], np.float32)

    return Form("http", path, encode, decode, {"content-type": "application/json"})


def raw(path: str) -> Form:
    """Little-endian float32 in and out."""

    def decode(body: bytes, headers: Headers) -> Floats:
        return np.frombuffer(body, np.float32)

    return Form("http", path, lambda row: row.tobytes(), decode, {"content-type": "application/octet-stream"})
