"""The description of each model's own route: schemas, and examples that work."""

import json
from typing import Any

import jsonschema_rs
import pytest
from dialect_tables import OPERATIONS

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.model_openapi import MOST_MODELS
from salver.dialects.oip.openapi import describe
from salver.encoding.bodies import HttpBody
from salver.words.messages import PIPELINE, Signature, TensorSpec
from salver.words.tensor import DATATYPES, DataType

Y = (TensorSpec("y", DataType.FP32, (-1,)),)
IRIS = Signature((TensorSpec("X", DataType.FP32, (-1, 4)),), Y, batched=True)
MIXED = Signature((*IRIS.inputs, TensorSpec("n", DataType.UINT8, (1,), optional=True)), Y)
IMAGE = Signature((TensorSpec("x", DataType.FP32, (-1, 3, 224, 224)),), Y)
NAMED_INPUTS = Signature((TensorSpec("inputs", DataType.FP32, (-1, 2)),), Y)


def operation(
    signature: Signature, name: str = "m", *, takes_short: bool = True
) -> tuple[Any, dict[str, Any]]:
    """What is said of the model's route, and all schemas."""
    whole = describe("1.0", OPERATIONS, {name: signature}, takes_short=takes_short)
    (path,) = whole["paths"].keys() - describe("1.0", OPERATIONS)["paths"].keys()
    return whole["paths"][path]["post"], whole["components"]["schemas"]


def validate(schema: dict[str, Any], schemas: dict[str, Any], body: Any) -> None:
    jsonschema_rs.validate({**schema, "components": {"schemas": schemas}}, body)


@pytest.mark.parametrize("takes_short", [True, False])
@pytest.mark.parametrize(
    "signature",
    [
        IRIS,
        MIXED,
        NAMED_INPUTS,
        *(Signature((TensorSpec("x", kind, (-1, 2)),), Y) for kind in DATATYPES.values()),
    ],
)
def test_the_example_works(signature: Signature, takes_short: bool) -> None:
    told, schemas = operation(signature, takes_short=takes_short)
    content = told["requestBody"]["content"]["application/json"]
    validate(content["schema"], schemas, content["example"])
    if not takes_short and any(spec.datatype in (DataType.FP16, DataType.BF16) for spec in signature.inputs):
        return  # which JSON of the protocol cannot carry
    body = json.dumps(content["example"]).encode()
    request = OpenInferenceHttp(takes_short=takes_short).decode(HttpBody("m", "", body), signature)
    assert [tensor.name for tensor in request.inputs] == [spec.name for spec in signature.inputs]


@pytest.mark.parametrize(
    "body",
    [
        {"X": [[1, 2, 3]]},
        {"X": [1, 2, 3, 4]},
        {"X": [["a", 2, 3, 4]]},
        {"Y": [[1, 2, 3, 4]]},
        {},
        {"X": [[1, 2, 3, 4]], "n": [256]},
    ],
)
def test_its_schema_refuses_what_does_not_fit(body: Any) -> None:
    told, schemas = operation(MIXED)
    with pytest.raises(jsonschema_rs.ValidationError):
        validate(told["requestBody"]["content"]["application/json"]["schema"], schemas, body)


def test_it_tells_the_tensors_and_no_example_that_is_large() -> None:
    told, _ = operation(IMAGE)
    assert told["x-salver-model"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]
    assert "example" not in told["requestBody"]["content"]["application/json"]
    assert operation(MIXED)[0]["x-salver-model"]["inputs"][1]["optional"] is True


def test_names_are_quoted_and_models_are_bounded() -> None:
    assert "/v2/models/a%2Fb%20c/infer" in describe("1.0", OPERATIONS, {"a/b c": IRIS})["paths"]
    many = describe("1.0", OPERATIONS, {f"m{i}": IRIS for i in range(MOST_MODELS + 5)})["paths"]
    assert len(many) == len(describe("1.0", OPERATIONS)["paths"]) + MOST_MODELS


def raw(task: str, *names: str) -> dict[str, Any]:
    """The content types of raw inputs for a task."""
    inputs = tuple(TensorSpec(name, DataType.BYTES, (-1,)) for name in names)
    whole = describe("1.0", OPERATIONS, {"m": Signature(inputs, Y, platform=task)})
    found = whole["paths"]["/v1/models/m"]["post"]
    assert found["x-salver-raw"]["name"] == "m"
    content: dict[str, Any] = found["requestBody"]["content"]
    return content


def test_raw_inputs_are_described_by_content_type() -> None:
    photos = raw("huggingface_image-classification", "image")
    binary = {"type": "string", "format": "binary"}
    assert photos["image/jpeg"]["schema"] == binary
    assert photos["multipart/form-data"]["schema"]["properties"]["data"] == binary
    questions = raw("huggingface_question-answering", "question", "context")
    assert questions["text/csv"]["example"] == "question,context\nWhere do I live?,I live in Berlin.\n"
    assert {"question", "context", "parameters"} <= questions["multipart/form-data"]["schema"][
        "properties"
    ].keys()
    assert "text/csv" not in raw("huggingface_text-ranking", "text", "text_pair")
    assert raw(PIPELINE, "photo")["application/octet-stream"]["schema"] == binary
    assert "application/octet-stream" not in raw(PIPELINE, "photo", "mask")
