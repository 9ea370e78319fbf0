"""Inputs and parameters in bodies that are no JSON: forms as requests writes them, and delimited text."""

from typing import Any

import pytest
import requests

from salver.encoding.bodies import HttpBody
from salver.encoding.multipart import MOST_PARTS
from salver.features.pipelines.bodies import file_of_form, parts
from salver.features.pipelines.forms import PipelineJson
from salver.words.errors import InvalidInput, SalverError, TooLarge
from salver.words.messages import PIPELINE, Signature, TensorSpec
from salver.words.tensor import DataType

INPUTS = {
    "text-classification": ("text", "text_pair"),
    "text-ranking": ("text", "text_pair"),
    "question-answering": ("question", "context"),
    "image-classification": ("image",),
}
JPEG = b"\xff\xd8\xff\xe0 an image"


def signature(task: str) -> Signature:
    names = INPUTS.get(task, ("text",))
    return Signature(
        tuple(TensorSpec(name, DataType.BYTES, (-1,)) for name in names), (), platform=f"huggingface_{task}"
    )


def form(*fields: tuple[str, Any]) -> HttpBody:
    """Return the body that requests sends for fields: texts, or files as (name, content, content type)."""
    files = [(name, value if isinstance(value, tuple) else (None, value)) for name, value in fields]
    sent = requests.Request("POST", "http://h", files=files).prepare()
    return HttpBody("m", "", sent.body, {b"content-type": sent.headers["content-type"].encode()})  # type: ignore[arg-type]


FORMS = {
    "a text": ("sentence-embeddings", [("inputs", "good")], "good", {}),
    "several": ("sentence-embeddings", [("data", "good"), ("data", "bad")], ["good", "bad"], {}),
    "a text file": ("sentence-embeddings", [("x", ("a.txt", b"good", "text/plain"))], "good", {}),
    "named": (
        "question-answering",
        [("question", "who"), ("context", "I"), ("top_k", "2")],
        {"question": "who", "context": "I"},
        {"top_k": 2},
    ),
    "parameters": (
        "text-classification",
        [("inputs", "good"), ("parameters", '{"top_k": 2}')],
        "good",
        {"top_k": 2},
    ),
    "texts to rank": (
        "text-ranking",
        [("query", "q"), ("texts", "a")],
        {"query": "q", "texts": ["a"]},
        {},
    ),
    "labels": (
        "zero-shot-classification",
        [("inputs", "a"), ("candidate_labels", "x"), ("candidate_labels", "y")],
        "a",
        {"candidate_labels": ["x", "y"]},
    ),
    "an image": ("image-classification", [("data", ("a.jpg", JPEG, "image/jpeg"))], JPEG, {}),
    "an image of any name": ("image-classification", [("photo", ("a.jpg", JPEG, "image/jpeg"))], JPEG, {}),
    "images": (
        "image-classification",
        [("image", ("a.jpg", JPEG, "image/jpeg")), ("image", ("b.jpg", b"2", "image/png")), ("top_k", "1")],
        [JPEG, b"2"],
        {"top_k": 1},
    ),
    "a JSON file": ("text-classification", [("f", ("x", '["a"]', "application/json"))], ["a"], {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form(name: str) -> None:
    task, fields, inputs, parameters = FORMS[name]
    body = form(*fields)
    assert parts(body, signature(task)) == (inputs, parameters)
    request = PipelineJson().decode(body, signature(task))
    assert all(tensor.datatype is DataType.BYTES for tensor in request.inputs)


def test_a_form_for_a_pipeline_has_its_inputs_by_name() -> None:
    specs = (TensorSpec("image", DataType.BYTES, (-1,)), TensorSpec("scale", DataType.FP32, (-1,)))
    body = form(("image", ("a.jpg", JPEG, "image/jpeg")), ("scale", (None, "0.5")))
    inputs, _ = parts(body, Signature(specs, (), platform=PIPELINE))
    assert inputs["image"] == JPEG and inputs["scale"] == "0.5"


def test_a_file_of_a_form_is_a_body_of_its_own() -> None:
    found = file_of_form(form(("data", ("rows.csv", b"a,b\n1,2\n", "text/csv"))))
    assert (found.body, found.headers) == (b"a,b\n1,2\n", {b"content-type": b"text/csv"})
    with pytest.raises(InvalidInput, match="the form has 2 fields"):
        file_of_form(form(("a", "1"), ("b", "2")))


DELIMITED = {
    "texts": ("text-classification", "inputs\ngood\nbad\n", ["good", "bad"]),
    "quoted": ("sentence-embeddings", 'inputs\r\n"a, ""b"""\r\n', ['a, "b"']),
    "byte order mark": ("sentence-embeddings", "\ufeffinputs\na\n", ["a"]),
    "questions": (
        "question-answering",
        "question,context\nwho,I\n",
        [{"question": "who", "context": "I"}],
    ),
    "pairs": ("text-classification", "text,text_pair\na,b\n", [{"text": "a", "text_pair": "b"}]),
    "ranked": ("text-ranking", "text,text_pair\na,b\n", [["a", "b"]]),
}


@pytest.mark.parametrize("name", DELIMITED)
def test_delimited_text(name: str) -> None:
    task, text, inputs = DELIMITED[name]
    body = HttpBody("m", "", text.encode(), {b"content-type": b"text/csv; charset=utf-8"})
    assert parts(body, signature(task)) == (inputs, {})
    assert len(PipelineJson().decode(body, signature(task)).inputs[0].array) == len(inputs)
    if "," not in text:
        tabbed = HttpBody("m", "", text.encode(), {b"content-type": b"text/tab-separated-values"})
        assert parts(tabbed, signature(task)) == (inputs, {})


def multipart(body: bytes) -> HttpBody:
    return HttpBody("m", "", body, {b"content-type": b"multipart/form-data; boundary=B"})


def delimited(text: str) -> HttpBody:
    return HttpBody("m", "", text.encode(), {b"content-type": b"text/csv"})


HEAD = b'--B\r\nContent-Disposition: form-data; name="'
WRONG = {
    "no boundary": (HttpBody("m", "", b"", {b"content-type": b"multipart/form-data"}), "boundary"),
    "no fields": (multipart(b"--B--\r\n"), "no fields"),
    "cut": (multipart(HEAD + b'data"\r\n\r\ngood\r\n--B'), "ends early"),
    "no name": (multipart(b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--\r\n"), "no name"),
    "no inputs": (form(("top_k", "2")), "no inputs"),
    "both": (form(("question", "who"), ("data", "x")), "with and without a name"),
    "parameters": (form(("data", "x"), ("parameters", "2")), "must be an object"),
    "many": (
        multipart(b"".join(HEAD + b'a"\r\n\r\n1\r\n' for _ in range(MOST_PARTS + 1)) + b"--B--\r\n"),
        "more than 1024 fields",
    ),
    "not UTF-8": (multipart(HEAD + b'data"\r\n\r\n\xff\r\n--B--\r\n'), "not valid UTF-8"),
    "columns": (delimited("a,b\n1,2\n"), "the columns are a, b"),
    "no columns": (delimited(""), "the columns are none"),
    "ragged": (delimited("question,context\nwho\n"), "line 2 has 1 values"),
    "a long value": (delimited(f"inputs\n{'x' * 200_000}\n"), "line 2 of the delimited text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_names_what_is_wrong(name: str) -> None:
    body, said = WRONG[name]
    with pytest.raises(InvalidInput, match=said):
        parts(body, signature("question-answering"))


def test_large_delimited_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="at most 1048576 are read"):
        parts(delimited("inputs\n" + "x\n" * (1 << 19)), signature("fill-mask"))


def test_a_form_that_ends_anywhere_is_refused() -> None:
    whole = form(("data", ("a.jpg", JPEG, "image/jpeg")), ("top_k", "1")).body
    for end in range(len(whole) - 2):  # but for the last line break
        body = multipart(whole[:end])
        body.headers = {b"content-type": b"multipart/form-data; boundary=" + whole[2:].partition(b"\r")[0]}
        with pytest.raises(SalverError):
            parts(body, signature("image-classification"))
