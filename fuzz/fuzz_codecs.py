"""Does any input make a codec raise something other than a refusal?

``python fuzz/fuzz_codecs.py TARGET SECONDS``; see README.md beside this file.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from salver.dialects.oip.grpc_codec import decode_infer
from salver.dialects.oip.grpc_schema import build
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.openai.chat_template import ChatTemplate
from salver.dialects.openai.codec import EmbeddingCodec, GenerationCodec
from salver.dialects.openai.requests import EmbeddingRequest, parse_chat, parse_completion, parse_embedding
from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
from salver.dialects.openai.tools import read_whole
from salver.dialects.tensorflow import grpc_codec as tfs_grpc
from salver.dialects.tensorflow import predict_codec as tfs_predict
from salver.dialects.tensorflow import tf_schema
from salver.dialects.tensorflow.batching_parameters import batching_of
from salver.dialects.tensorflow.head_json import Classify
from salver.dialects.tensorflow.heads import CLASSIFY
from salver.dialects.tensorflow.json_codec import Predict
from salver.dialects.tensorflow.model_list import named_models
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_text import parse
from salver.dialects.torchserve.bodies import query_of, read_form
from salver.dialects.torchserve.orders import read_registration
from salver.encoding.bodies import HttpBody
from salver.testing.codecs import REFUSALS, mutations, survives
from salver.transport.grpc_frames import FrameReader, frame
from salver.transport.http1_head import Heads
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType

_SIGNATURE = Signature((TensorSpec("x", DataType.FP32, (-1, 2)), TensorSpec("s", DataType.BYTES, (-1,))), ())
_TEXTS = Signature(
    (
        TensorSpec("text_input", DataType.BYTES, (1,)),
        TensorSpec("sampling_parameters", DataType.BYTES, (1,), optional=True),
        TensorSpec("max_tokens", DataType.INT32, (1,), optional=True),
        TensorSpec("stop", DataType.BYTES, (-1,), optional=True),
    ),
    (TensorSpec("text_output", DataType.BYTES, (1,)),),
)
_VECTORS = Signature(_TEXTS.inputs[:1], (TensorSpec("e", DataType.FP32, (-1,)),))
_NUMBERS = Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), ())
_CLASSES = Signature(
    (TensorSpec("inputs", DataType.BYTES, (-1,)),), (TensorSpec("scores", DataType.FP32, (-1,)),)
)
_LENGTH = b"inference-header-content-length"


def _oip_http(data: bytes) -> None:
    """The first byte says how much of the rest is JSON; 255 = all of it, without the header."""
    split, body = data[:1] or b"\xff", data[1:]
    headers = {} if split == b"\xff" else {_LENGTH: str(len(body) * split[0] // 254).encode()}

    def decode(body: bytes) -> InferRequest:
        return OpenInferenceHttp().decode(HttpBody("m", "", body, headers), _SIGNATURE)

    survives(decode, body)
    survives(decode, body + b" " * 20_000)  # the reader of large bodies


def _oip_grpc(data: bytes) -> None:
    survives(decode_infer, data)


def _tfs_predict(data: bytes) -> None:
    def several(body: bytes) -> InferRequest:
        return Predict().decode(HttpBody("m", "", body), _SIGNATURE)

    def one(body: bytes) -> InferRequest:
        return Predict().decode(HttpBody("m", "", body), _NUMBERS)

    for decode in (several, one):
        survives(decode, data)
        survives(decode, data + b" " * 20_000)  # the reader of large bodies


def _tfs_files(data: bytes) -> None:
    """Whatever kind of configuration file it is taken for."""
    readers = {"ModelServerConfig": named_models, "BatchingParameters": batching_of, "SSLConfig": str}
    for kind, read in readers.items():
        with contextlib.suppress(REFUSALS):
            read(parse(data, kind, "f"))


def _tfs_classify(data: bytes) -> None:
    survives(lambda body: Classify().decode(HttpBody("m", "", body), _CLASSES), data)


def _tfs_grpc(data: bytes) -> None:
    """Any bytes as each of the requests; twice as a PredictRequest, whose form is known then."""
    messages = tfs_predict.PredictMessages()

    def predict(message: bytes) -> InferRequest:
        spec, asked = messages.read(message)
        return tfs_predict.Predict(spec, TfsRules(), messages).decode(asked, _SIGNATURE)

    def classify(message: bytes) -> InferRequest:
        parsed = tfs_grpc.parse("ClassificationRequest", message)
        return tfs_grpc.HeadCodec(tfs_grpc.spec_of(parsed), TfsRules(), CLASSIFY).decode(
            parsed.input, _CLASSES
        )

    for decode in (predict, predict, classify):
        survives(decode, data)
    for read in (
        tfs_grpc.decode_reload,
        tfs_grpc.decode_status_request,
        tfs_grpc.decode_metadata_request,
    ):
        with contextlib.suppress(REFUSALS):
            read(data)


def _openai(data: bytes) -> None:
    """Each byte that a request of one route has may come on another."""
    resolved = ResolvedModel("m", ChatSettings(ChatTemplate("{{ messages }}{{ tools }}"), tools="llama3"))

    def decode(body: bytes, parse: Callable[[bytes], Any]) -> InferRequest:
        codec = GenerationCodec(parse(body), resolved, "", 0, lambda: "0" * 16)
        return codec.decode(HttpBody("m", "", body), _TEXTS)

    survives(lambda body: decode(body, parse_chat), data)
    survives(lambda body: decode(body, parse_completion), data)
    survives(lambda body: _embedding(parse_embedding(body), resolved), data)
    text = data.decode("utf-8", "replace")
    for parser in ("llama3", "mistral"):
        read_whole(text, parser, 1000)


def _embedding(asked: EmbeddingRequest, resolved: ResolvedModel) -> InferRequest:
    return EmbeddingCodec(asked, resolved, asked.texts).decode(HttpBody("m", "", b""), _VECTORS)


def _grpc_frames(data: bytes) -> None:
    for encoding in ("identity", "gzip", "deflate", "br"):
        reader = FrameReader(1 << 16, encoding)
        try:
            for at in range(0, len(data), 7):
                reader.feed(data[at : at + 7])
        except REFUSALS:
            pass


def _message() -> bytes:
    message = build()["ModelInferRequest"](
        model_name="m",
        inputs=[
            {"name": "x", "datatype": "INT8", "shape": [2], "contents": {"int_contents": [1, -128]}},
            {"name": "s", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"\xff"]}},
        ],
        outputs=[{"name": "y"}],
    )
    message.parameters["timeout"].int64_param = 3
    return bytes(message.SerializeToString())


def _predict() -> bytes:
    message = tf_schema.build()["PredictRequest"](model_spec={"name": "m", "version": {"value": 3}})
    for name, said in (
        ("x", {"dtype": 1, "float_val": [1, 2]}),
        ("s", {"dtype": 7, "tensor_content": b"\x01\x02aab"}),
    ):
        message.inputs[name].CopyFrom(tf_schema.build()["TensorProto"](**said))
        for size in {"x": (1, 2), "s": (2,)}[name]:
            message.inputs[name].tensor_shape.dim.add(size=size)
    return bytes(message.SerializeToString())


def _classify() -> bytes:
    message = tf_schema.build()["ClassificationRequest"](model_spec={"name": "m"})
    examples = message.input.example_list_with_context
    examples.examples.add().features.feature["x"].int64_list.value.append(1)
    examples.context.features.feature["y"].bytes_list.value.append(b"a")
    return bytes(message.SerializeToString())


_JSON = orjson.dumps(
    {
        "id": "7",
        "parameters": {"timeout": 5},
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1.5, -2e3]]},
            {"name": "s", "shape": [1], "datatype": "BYTES", "data": ["a\\u00fc"]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
)
_HEAD = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
_BINARY = bytes((-(-len(_HEAD) * 254 // (len(_HEAD) + 8)),)) + _HEAD + bytes(8)


def _forms(data: bytes) -> None:
    """What follows a line is a body; the line is its content type."""
    kind, _, body = data.partition(b"\n")
    for content_type in (kind.decode("latin-1"), "multipart/form-data; boundary=B"):
        with contextlib.suppress(*REFUSALS):
            read_form(body, content_type)
    with contextlib.suppress(*REFUSALS):
        query_of(data)
    with contextlib.suppress(*REFUSALS):
        read_registration(body, "application/json", {})


def _http1(data: bytes) -> None:
    head = Heads().parse(data)
    assert head is None or (head.path.startswith(b"/") and head.length >= -1)


#: Target -> what it does with the bytes, and where it starts.
TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "oip_http": (_oip_http, (b"\xff" + _JSON, _BINARY)),
    "oip_grpc": (_oip_grpc, (_message(),)),
    "tfs_files": (
        _tfs_files,
        (
            b"model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' "
            b"model_version_policy { specific { versions: [1, 2] } } version_labels { key: 'a' value: 1 } "
            b"logging_config { sampling_config { sampling_rate: 0.1 } } } }",
            b"max_batch_size { value: 8 } allowed_batch_sizes: [2, 8] pad_variable_length_inputs: true",
        ),
    ),
    "tfs_predict": (
        _tfs_predict,
        (
            b'{"instances":[{"x":[1,2],"s":{"b64":"YQ=="}}]}',
            b'{"inputs":{"x":[[1,2]],"s":["a"]}}',
            b'{"signature_name":"serving_default","instances":[[1,2.5],[-3e1,NaN]]}',
        ),
    ),
    "tfs_classify": (
        _tfs_classify,
        (b'{"context":{"a":[1,true]},"examples":[{"b":[1.5],"c":"d","e":{"b64":"YQ=="}}]}',),
    ),
    "openai": (
        _openai,
        (
            b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stop":["b"],"n":1}',
            b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}'
            b'],"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required","seed":5}',
            b'{"model":"m","prompt":"a","max_tokens":5,"temperature":0.5,"echo":true,"stream":true}',
            b'{"model":"m","input":["a","b"],"dimensions":3}',
            b'[TOOL_CALLS][{"name":"f","arguments":{"a":[1,"}"]}}]',
        ),
    ),
    "tfs_grpc": (_tfs_grpc, (_predict(), _classify())),
    "torchserve": (
        _forms,
        (
            b'multipart/form-data; boundary="B"\n--B\r\nContent-Disposition: form-data; '
            b'name="a"; filename=f\r\n'
            b"Content-Type: text/csv\r\nContent-Transfer-Encoding: 8bit\r\n\r\n1\r\n--B--\r\n",
            b"application/x-www-form-urlencoded\na=1&b=%41+c&d",
            b'application/json\n{"url":"a.mar","batch_size":"3","synchronous":true}',
        ),
    ),
    "http1": (
        _http1,
        (
            b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue",
            b"GET http://h/a HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked",
        ),
    ),
    "grpc_frames": (_grpc_frames, (frame(b"ab") + frame(b""), b"\1" + frame(b"\x78\x9c")[1:])),
}


def run_seconds(target: str, seconds: float) -> int:
    """Inputs tried, mutated from the seeds, within that time.

    Raises:
        Exception: whatever the target raised; the input is written to stderr first.
    """
    check, seeds = TARGETS[target]
    end, tried, seed = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        for start in seeds:
            for data in mutations(start, seed, count=100):
                try:
                    check(data)
                except BaseException:
                    sys.stderr.write(f"{target} fails on {data!r}\n")
                    raise
                tried += 1
        seed += 1
    return tried


def main() -> None:
    """Guided by coverage where atheris is installed, at random elsewhere."""
    target, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    try:
        import atheris
    except ImportError:
        sys.stdout.write(f"{run_seconds(target, seconds)} inputs, nothing found\n")
        return
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}"], TARGETS[target][0])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
