"""Context of a handler, and requests that share a run (TS-A6, TS-Y4)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from marfolder import (
    BACKEND,
    form,
    manifest_of,
    opened,
    own_process,
    replies,
    reply,
    request,
    said,
    shown,
    write,
)

from salver.backends.protocol import LoadOptions
from salver.words.handlers import DESCRIBE, EXPLAIN, Form, Workers

DUMP = """
    import os

    class Dump:
        def initialize(self, context):
            self.seen = {"properties": dict(context.system_properties), "model": context.manifest["model"],
                         "runtime": context.manifest.get("runtime"), "model_name": context.model_name,
                         "yaml": context.model_yaml_config, "cwd": os.getcwd(),
                         "cache": hasattr(context, "cache"), "ids": context.request_ids,
                         "one": context.get_request_id(), "criteria": context.stopping_criteria}

        def handle(self, data, context):
            return [dict(self.seen, headers=context.get_all_request_header(i),
                         request_id=context.get_request_id(i), none=context.get_request_id(99),
                         one=context.get_request_header(i, "x-gold-one"),
                         sequence=context.get_sequence_id(i)) for i in range(len(data))]
"""


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


@pytest.mark.clause("TS-A6")
def test_what_is_told_of_the_model_recorded(tmp_path: Path) -> None:
    config = "minWorkers: 1\nhandler: {colour: green, size: 3}\nfree: {form: [1, 2]}\n"
    model = opened(write(tmp_path, DUMP, config=config), "served", Workers(batch_size=2))
    told = shown(reply(model, b"x", "text/plain"))
    assert told["properties"] == {
        "model_dir": str(tmp_path),
        "gpu_id": None,
        "batch_size": 2,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": True,
    }
    assert told["model"]["modelName"] == "m" and told["model_name"] == "served"
    assert told["runtime"] == "python" and told["cwd"] == str(tmp_path)
    assert told["yaml"] == {
        "minWorkers": 1,
        "handler": {"colour": "green", "size": 3},
        "free": {"form": [1, 2]},
    }
    assert told["cache"] is False and told["ids"] is None and told["criteria"] is None


@pytest.mark.clause("TS-A6")
def test_without_a_configuration_it_is_empty(tmp_path: Path) -> None:
    assert shown(reply(opened(write(tmp_path, DUMP)), b""))["yaml"] == {}


@pytest.mark.clause("TS-A6")
def test_an_empty_configuration_is_one(tmp_path: Path) -> None:
    assert shown(reply(opened(write(tmp_path, DUMP, config="")), b""))["yaml"] == {}


@pytest.mark.clause("TS-C4")
def test_limit_max_image_pixels(tmp_path: Path) -> None:
    model = opened(write(tmp_path, DUMP), limit_max_image_pixels="false")
    assert shown(reply(model, b""))["properties"]["limit_max_image_pixels"] is False


@pytest.mark.clause("TS-Y2")
@pytest.mark.parametrize("gpu", [None, 0, 3])
def test_the_gpu_is_the_one_that_its_worker_was_given(tmp_path: Path, gpu: int | None) -> None:
    options = LoadOptions(own_process=True, gpu=gpu)
    model = BACKEND.load(manifest_of(write(tmp_path, DUMP)), options)
    assert shown(reply(model, b""))["properties"]["gpu_id"] == gpu


@pytest.mark.clause("TS-A6")
def test_headers_are_looked_up_as_they_were_sent_recorded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, DUMP))
    asked = [
        form(b"x", "text/plain", **{"X-Gold-One": "1", "x-gold-two": "zwei", "explain": "False"}),
        form(b"x", "text/csv", **{"x-gold-one": "small", "ts_request_sequence_id": "s1"}),
        form(None),
    ]
    first, second, third = map(shown, replies(model, *asked))
    assert first["headers"] == {
        "body": {"content-type": "text/plain"}, "X-Gold-One": "1", "x-gold-two": "zwei", "explain": "False",
    }  # fmt: skip
    assert (first["one"], second["one"]) == (None, "small")
    assert (first["sequence"], second["sequence"]) == (None, "s1")
    assert second["headers"]["body"] == {"content-type": "text/csv"}
    assert third["headers"] == {} and third["none"] is None
    ids = {each["request_id"] for each in (first, second, third)}
    assert len(ids) == 3 and all(len(id) == 36 for id in ids)


@pytest.mark.clause("TS-C10")
def test_the_name_of_the_sequence_s_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", "X-Sequence")
    model = opened(write(tmp_path, DUMP))
    assert shown(reply(model, b"", **{"X-Sequence": "s2"}))["sequence"] == "s2"


@pytest.mark.clause("TS-A6")
def test_an_id_that_is_given_is_told(tmp_path: Path) -> None:
    model = opened(write(tmp_path, DUMP))
    (answer,) = model.reply([request(form(b""), "my-id")], None)
    assert shown(said(answer))["request_id"] == "my-id"


KINDS = """
    class Kinds:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            kinds = [context.get_request_header(0, "explain"), context.get_request_header(0, "describe")]
            return [kinds + [len(data)]] * len(data)
"""


@pytest.mark.clause("TS-R5", "TS-A4")
def test_explanations_and_descriptions_have_runs_of_their_own(tmp_path: Path) -> None:
    """Handlers look at the first request of a batch; TorchServe answers all of it by that."""
    model = opened(write(tmp_path, KINDS))
    asked = [form(b"1"), form(b"2", **EXPLAIN), form(b"3", explain="False"), DESCRIBE, form(b"5", **EXPLAIN)]
    said = [json.loads(each.body) for each in replies(model, *asked)]
    assert said == [
        [None, None, 2], ["True", None, 2], [None, None, 2], [None, "True", 1], ["True", None, 2],
    ]  # fmt: skip


@pytest.mark.clause("TS-A4")
def test_a_base_handler_describes_itself_and_explains(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = """
        from ts.torch_handler.base_handler import BaseHandler

        class Own(BaseHandler):
            def initialize(self, context):
                self.initialized = True
            def preprocess(self, data):
                return data
            def inference(self, data):
                return data
            def postprocess(self, data):
                return ["predicted"] * len(data)
            def explain_handle(self, data_preprocess, raw_data):
                return [{"explained": len(raw_data)}]
            def describe_handle(self):
                return {"inputs": 4}
    """
    model = opened(write(tmp_path, source))
    predicted, explained, described = replies(model, form(b"x"), form(b"x", **EXPLAIN), DESCRIBE)
    assert predicted.body == b"predicted"
    assert shown(explained) == {"explained": 1} and shown(described) == {"inputs": 4}


@pytest.mark.clause("TS-A6")
def test_contexts_are_made_and_compared_by_authors_tests(tmp_path: Path) -> None:
    opened(write(tmp_path, DUMP))
    from ts.context import Context, RequestProcessor

    one = Context("m", "/models/m", {"model": {}}, 1, 0, "0.12.0")
    other = Context("m", "/models/m", {"model": {}}, 1, 0, "0.12.0")
    assert one == other and one != 3
    one.set_response_status(404)  # there is no request yet
    one.request_processor = [RequestProcessor({"a": "b"}), RequestProcessor({})]
    assert one != other
    assert one.get_request_header(0, "a") == "b" and one.get_request_header(1, "a") is None
    assert one.get_response_status(0) == (200, None) and one.get_response_content_type(1) is None
    one.set_all_response_status(202, "Later")
    one.set_response_content_type(1, "text/csv")
    assert one.get_response_status(1) == (202, "Later")
    assert one.get_response_headers(1) == {"content-type": "text/csv"}
    assert one.request_processor[1].get_response_header("content-type") == "text/csv"


@pytest.mark.clause("TS-A6")
def test_a_handler_may_use_its_folder_as_it_lies(tmp_path: Path) -> None:
    source = """
        from neighbour import WORD

        def handle(data, context):
            with open("words.txt") as file:
                return data and [WORD + file.read()]
    """
    folder = write(tmp_path, source)
    (folder / "neighbour.py").write_text("WORD = 'good '\n")
    (folder / "words.txt").write_text("words")
    assert reply(opened(folder), b"").body == b"good words"


def test_a_form_of_nothing_but_parts_is_asked_by_run(tmp_path: Path) -> None:
    model = opened(write(tmp_path, "def handle(data, context):\n    return data and [data[0]['x']]\n"))
    (asked,) = Form((form(b"12").parts[0],)).parts
    assert bytes(model.run({"x": asked.data})["body"]) == b"12"
    from salver.words.errors import HandlerFailed

    with pytest.raises(HandlerFailed, match="Prediction failed"):
        model.run({})
