"""Answers of directories in JSON, beside recorded ones."""

import json

from salver.encoding.bodies import HttpBody
from salver.features.pipelines.forms import PipelineJson
from salver.words.errors import SalverError
from salver.words.messages import InferResponse
from salver.words.tensor import tensor


def asked(model, body):
    """Return the JSON answer of a model to the body of a request."""
    codec = PipelineJson()
    request = codec.decode(HttpBody("m", "1", json.dumps(body).encode()), model.signature)
    (answer,) = model.answer([request])
    if isinstance(answer, SalverError):
        raise answer
    outputs = tuple(tensor(name, array) for name, array in answer.outputs.items())
    return json.loads(codec.encode(request, InferResponse("m", "1", outputs)).body)


def alike(got, want, path="answer"):
    if isinstance(want, float):
        assert isinstance(got, float | int) and abs(got - want) <= 1e-5, f"{path}: {got} for {want}"
    elif isinstance(want, dict):
        assert isinstance(got, dict) and got.keys() == want.keys(), f"{path}: {got} for {want}"
        for key in want:
            alike(got[key], want[key], f"{path}.{key}")
    elif isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want), f"{path}: {got} for {want}"
        for i, (one, other) in enumerate(zip(got, want, strict=True)):
            alike(one, other, f"{path}[{i}]")
    else:
        assert got == want, f"{path}: {got!r} for {want!r}"
