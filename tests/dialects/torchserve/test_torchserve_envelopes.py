"""Envelopes: input of handlers and answers to callers (TS-R6, TS-R7, TS-C2)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from marfolder import JSON, OCTETS, form, opened, own_process, replies, reply, shown, write

from salver.words.handlers import EXPLAIN, HandlerReply

DOUBLE = """
    class Enveloped:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            out = []
            for item in data:
                if isinstance(item, dict) and "data" in item and "datatype" in item:
                    said = item["data"]
                    out.append([2 * v for v in said] if isinstance(said, list) else said)
                elif isinstance(item, (list, tuple)):
                    out.append([2 * v for v in item])
                elif isinstance(item, (bytes, bytearray)):
                    out.append({"bytes": len(item)})
                else:
                    out.append({"got": item})
            return out
"""
FAILED = HandlerReply(b"Prediction failed", 503, is_error=True)
MISMATCHED = HandlerReply(b"number of batch response mismatched", 503, is_error=True)


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


def double(tmp_path: Path, envelope: str) -> Any:
    return opened(write(tmp_path, DOUBLE), envelope=envelope)


def ask(model: Any, told: Any, content_type: str = JSON, **headers: str) -> HandlerReply:
    return reply(model, told if isinstance(told, str) else json.dumps(told), content_type, **headers)


@pytest.mark.clause("TS-R6")
@pytest.mark.parametrize(
    ("told", "content_type", "said"),
    [
        ({"instances": [[1, 2]]}, JSON, {"predictions": [[2, 4]]}),
        ({"instances": [[5]]}, OCTETS, {"predictions": [[10]]}),
        ({"instances": [[1], [2]]}, JSON, {"predictions": [[2], [4]]}),
        ({"instances": []}, JSON, MISMATCHED),
        ("zzz", OCTETS, FAILED),
        ("zzz", JSON, FAILED),
        ({"rows": []}, JSON, FAILED),
        ("[]", JSON, FAILED),
    ],
)
def test_kserve_recorded(told: Any, content_type: str, said: Any, tmp_path: Path) -> None:
    answer = ask(double(tmp_path, "kserve"), told, content_type)
    assert (answer if answer.is_error else shown(answer)) == said


@pytest.mark.clause("TS-R6")
def test_kserve_explanations_recorded(tmp_path: Path) -> None:
    answer = ask(double(tmp_path, "kserve"), {"instances": [[1, 2]]}, **EXPLAIN)
    assert shown(answer) == {"explanations": [[2, 4]]}


@pytest.mark.clause("TS-R6")
def test_requests_of_a_batch_share_a_run(tmp_path: Path) -> None:
    """TorchServe answers the first one alone, and fails the batch."""
    model = double(tmp_path, "kserve")
    bodies = [{"instances": [[1], [2]]}, {"instances": []}, {"instances": [[3]]}]
    said = [shown(each) for each in replies(model, *(form(json.dumps(each), JSON) for each in bodies))]
    assert said == [{"predictions": [[2], [4]]}, {"predictions": []}, {"predictions": [[6]]}]


@pytest.mark.clause("TS-R6")
def test_a_batch_whose_answers_are_too_few_fails(tmp_path: Path) -> None:
    model = opened(
        write(tmp_path, "def handle(data, context):\n    return data and [1]\n"), envelope="kserve"
    )
    asked = form(json.dumps({"instances": [1, 2]}), JSON)
    assert replies(model, asked, asked) == [MISMATCHED] * 2


def v2(*inputs: tuple[str, list[int], str, list[Any]], **more: Any) -> dict[str, Any]:
    keys = ("name", "shape", "datatype", "data")
    return {"inputs": [dict(zip(keys, each, strict=True)) for each in inputs], **more}


@pytest.mark.clause("TS-R7")
def test_kserve_v2_recorded_to_the_byte(tmp_path: Path) -> None:
    answer = ask(double(tmp_path, "kservev2"), v2(("a", [3], "INT64", [1, 2, 3]), id="q1"))
    assert answer.body.decode() == (
        '{\n  "id": "q1",\n  "model_name": "m",\n  "model_version": "1.0",\n  "outputs": [\n    {\n'
        '      "name": "a",\n      "datatype": "INT64",\n      "data": [\n        2,\n        4,\n        6\n'
        '      ],\n      "shape": [\n        3\n      ]\n    }\n  ]\n}'
    )


def output(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "data": data, "shape": [len(data)]}


@pytest.mark.clause("TS-R7")
@pytest.mark.parametrize(
    ("told", "outputs"),
    [
        (
            v2(("a", [2], "INT64", [1, 2]), ("b", [1], "FP32", [0.5]), id="q2"),
            [output("a", "INT64", [2, 4]), output("b", "FP64", [1.0])],
        ),
        (
            v2(("a", [2, 2], "FP32", [1, 2, 3, 4]), id="q3"),
            [output("a", "INT64", [1, 2, 1, 2, 3, 4, 3, 4])],
        ),
        (v2(("a", [1], "BYTES", ["hello"]), id="q4"), [output("a", "BYTES", ["hello"])]),
        (v2(("a", [1], "BOOL", [True]), id="q5"), [output("a", "INT64", [2])]),
    ],
)
def test_kserve_v2_recorded(told: Any, outputs: Any, tmp_path: Path) -> None:
    model = double(tmp_path, "kservev2")
    said = shown(ask(model, told))
    assert said == {"id": told["id"], "model_name": "m", "model_version": "1.0", "outputs": outputs}
    assert shown(ask(model, json.dumps(told), OCTETS)) == said


@pytest.mark.clause("TS-R7")
@pytest.mark.parametrize("id", [None, "", "  "])
def test_without_an_id_the_request_s_is_told(id: Any, tmp_path: Path) -> None:
    told = v2(("a", [1], "INT64", [1])) | ({} if id is None else {"id": id})
    assert len(shown(ask(double(tmp_path, "kservev2"), told))["id"]) == 36


@pytest.mark.clause("TS-R7")
@pytest.mark.parametrize(
    "told", [v2(("a", [5], "INT64", [1, 2]), id="q6"), {"id": "q7"}, v2(("a", [1], "BYTES", [])), "[]", "x"]
)
def test_what_is_no_request_fails_recorded(told: Any, tmp_path: Path) -> None:
    assert ask(double(tmp_path, "kservev2"), told) == FAILED


@pytest.mark.clause("TS-R7")
def test_requests_of_version_2_share_a_run(tmp_path: Path) -> None:
    model = double(tmp_path, "kservev2")
    bodies = [
        v2(("a", [1], "INT64", [1]), ("b", [1], "INT64", [2]), id="one"),
        v2(("c", [1], "INT64", [3]), id="two"),
    ]
    one, two = (shown(each) for each in replies(model, *(form(json.dumps(each), JSON) for each in bodies)))
    assert one["id"] == "one" and one["outputs"] == [output("a", "INT64", [2]), output("b", "INT64", [4])]
    assert two["id"] == "two" and two["outputs"] == [output("c", "INT64", [6])]


@pytest.mark.clause("TS-C2")
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"instances": [[1]]}, b'{"predictions": [[2]]}'),
        ({"instances": [{"b64": "aGVsbG8="}]}, b'{"predictions": [{"bytes": 5}]}'),
        ({"instances": [{"a": 1}, {"a": 2}]}, b'{"predictions": [{"got": {"a": 1}}, {"got": {"a": 2}}]}'),
        ({"rows": []}, None),
        ({"instances": []}, None),
    ],
)
def test_json_recorded(told: Any, said: bytes | None, tmp_path: Path) -> None:
    answer = ask(double(tmp_path, "json"), told)
    assert answer == (FAILED if said is None else HandlerReply(said))


@pytest.mark.clause("TS-C2")
def test_json_of_a_batch_and_columns_of_bytes(tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            return data and [row["x"].decode() if isinstance(row["x"], bytes) else row["x"] for row in data]
    """
    model = opened(write(tmp_path, source), envelope="json")
    bodies = [{"instances": [{"x": {"b64": "aGk="}}, {"x": 1}]}, {"instances": [{"x": "y"}]}]
    said = replies(model, *(form(json.dumps(each), JSON) for each in bodies))
    assert [each.body for each in said] == [b'{"predictions": ["hi", 1]}', b'{"predictions": ["y"]}']


@pytest.mark.clause("TS-C2")
def test_body(tmp_path: Path) -> None:
    assert shown(ask(double(tmp_path, "body"), [1, 2])) == [2, 4]
    assert shown(ask(double(tmp_path, "body"), "abc", OCTETS)) == {"bytes": 3}


@pytest.mark.clause("TS-A1")
def test_the_archive_s_envelope_goes_before_the_server_s(tmp_path: Path) -> None:
    model = opened(write(tmp_path, DOUBLE, envelope="body"), envelope="kserve")
    assert shown(ask(model, [1, 2])) == [2, 4]
