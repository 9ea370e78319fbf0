"""Log and trace settings in JSON and gRPC messages, with Triton's texts (TR-R9, TR-R10, TR-G3)."""

import json
from typing import Any

import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.triton import grpc_codec as triton_grpc
from salver.dialects.triton.settings import (
    LogSettings,
    TraceSetting,
    parse_log,
    parse_trace,
    trace_json,
)
from salver.words.errors import InvalidInput, SalverError, Unsupported


def trace_request(model: str = "", **settings: list[str]) -> bytes:
    request = pb.TraceSettingRequest(model_name=model)
    for name, values in settings.items():
        request.settings[name].value.extend(values)
    return bytes(request.SerializeToString())


def log_request(**settings: Any) -> bytes:
    request = pb.LogSettingsRequest()
    for name, value in settings.items():
        kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(request.settings[name], kind, value)
    return bytes(request.SerializeToString())


def text_of(error: pytest.ExceptionInfo[SalverError]) -> str:
    return error.value.triton or str(error.value)


@pytest.mark.clause("TR-R9")
def test_shown_as_text_and_a_list_of_levels() -> None:
    shown = trace_json(TraceSetting())
    assert shown == {
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    }
    both = TraceSetting(("TIMESTAMPS", "TENSORS"), 1, 2, 3, "/t.json")
    message = pb.TraceSettingResponse.FromString(triton_grpc.encode_trace(both))
    assert {name: list(value.value) for name, value in message.settings.items()} == {
        "trace_level": ["TIMESTAMPS", "TENSORS"],
        "trace_rate": ["1"],
        "trace_count": ["2"],
        "log_frequency": ["3"],
        "trace_file": ["/t.json"],
        "trace_mode": ["triton"],
    }


@pytest.mark.clause("TR-R9")
def test_a_change_and_what_clears() -> None:
    body = {"trace_level": ["TENSORS", "TIMESTAMPS"], "trace_rate": "1", "trace_count": None, "colour": 3}
    change = {"trace_level": ("TIMESTAMPS", "TENSORS"), "trace_rate": 1, "trace_count": None}
    assert parse_trace(json.dumps(body).encode()) == change
    message = trace_request(
        "m", trace_level=["TENSORS", "TIMESTAMPS"], trace_rate=["1"], trace_count=[], colour=["3"]
    )
    assert triton_grpc.decode_trace_request(message) == ("m", change)


@pytest.mark.clause("TR-R9")
@pytest.mark.parametrize("body", [b"", b"{}", b'{"trace_level":["LOUD"]}', b'{"trace_level":[]}', b'{"a":1}'])
def test_what_is_not_known_changes_nothing(body: bytes) -> None:
    assert parse_trace(body) == {}


@pytest.mark.clause("TR-R9")
def test_levels() -> None:
    assert parse_trace(b'{"trace_level":["OFF"]}') == {"trace_level": ("OFF",)}
    assert parse_trace(b'{"trace_level":["LOUD","TIMESTAMPS"]}') == {"trace_level": ("TIMESTAMPS",)}
    assert triton_grpc.decode_trace_request(trace_request(trace_level=[]))[1] == {"trace_level": None}
    with pytest.raises(InvalidInput, match="Expect only one trace level 'OFF' is specified"):
        parse_trace(b'{"trace_level":["OFF","TIMESTAMPS"]}')


@pytest.mark.clause("TR-R9")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("trace_rate", "often", "Unable to parse 'trace_rate', got: often"),
        ("trace_rate", "1.5", "Unable to parse 'trace_rate', got: 1.5"),
        ("trace_rate", "", "Unable to parse 'trace_rate', got: "),
        ("trace_rate", "٣", "Unable to parse 'trace_rate', got: ٣"),
        ("trace_rate", "9" * 5000, "Unable to parse 'trace_rate', got: " + "9" * 80),
        (
            "trace_rate",
            "-1",
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: -1",
        ),
        (
            "log_frequency",
            "4294967296",
            "Unable to parse 'log_frequency', value is out of range [ 0, 4294967295 ], got: 4294967296",
        ),
        (
            "trace_count",
            "2147483648",
            "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 2147483648",
        ),
        ("trace_count", "many", "Unable to parse 'trace_count', got: many"),
    ],
)
def test_numbers_that_are_none(name: str, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_trace(json.dumps({name: text}).encode())
    assert text_of(error) == said
    with pytest.raises(InvalidInput) as error:
        triton_grpc.decode_trace_request(trace_request(**{name: [text]}))
    assert text_of(error) == said


@pytest.mark.clause("TR-R9")
def test_a_count_below_the_least() -> None:
    """Triton's two wires differ by a space."""
    with pytest.raises(InvalidInput) as error:
        parse_trace(b'{"trace_count":"-5"}')
    assert text_of(error) == "Unable to parse 'trace_count'. Expecting value >= -1, got:-5"
    with pytest.raises(InvalidInput) as error:
        triton_grpc.decode_trace_request(trace_request(trace_count=["-5"]))
    assert text_of(error) == "Unable to parse 'trace_count'. Expecting value >= -1, got: -5"


@pytest.mark.clause("TR-G3")
def test_one_value_for_a_number() -> None:
    with pytest.raises(InvalidInput) as error:
        triton_grpc.decode_trace_request(trace_request(trace_rate=["1", "2"]))
    assert text_of(error) == "expect only 1 value for 'trace_rate'"


@pytest.mark.clause("TR-R9")
@pytest.mark.parametrize("value", ["golden.json", None, 3])
def test_the_trace_file_is_the_operators(value: object) -> None:
    said = "trace file location can not be updated through network protocol"
    with pytest.raises(Unsupported) as error:
        parse_trace(json.dumps({"trace_file": value}).encode())
    assert text_of(error) == said
    with pytest.raises(Unsupported, match=said):
        triton_grpc.decode_trace_request(trace_request(trace_file=[str(value)]))


@pytest.mark.clause("TR-R9")
@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"[]",
        b'"x"',
        b'{"trace_level":3}',
        b'{"trace_level":[3]}',
        b'{"trace_rate":5}',
        b'{"trace_rate":[]}',
    ],
)
def test_trace_settings_of_the_wrong_form(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_trace(body)


@pytest.mark.clause("TR-R10")
def test_shown_in_both_forms() -> None:
    settings = LogSettings("/log", log_info=False, log_verbose_level=2)
    message = pb.LogSettingsResponse.FromString(triton_grpc.encode_log(settings))
    assert {n: getattr(v, v.WhichOneof("parameter_choice")) for n, v in message.settings.items()} == {
        "log_file": "/log",
        "log_info": False,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 2,
        "log_format": "default",
    }
    assert message.settings["log_verbose_level"].WhichOneof("parameter_choice") == "uint32_param"


@pytest.mark.clause("TR-R10")
def test_a_change() -> None:
    body = {"log_info": False, "log_verbose_level": 4, "log_format": "ISO8601", "log_colour": 1}
    change = {"log_info": False, "log_verbose_level": 4, "log_format": "ISO8601"}
    assert parse_log(json.dumps(body).encode()) == change
    assert triton_grpc.decode_log_request(log_request(**body)) == change
    assert parse_log(b'{"log_file":null,"log_info":null}') == {}
    assert parse_log(b"") == {}


@pytest.mark.clause("TR-R10")
@pytest.mark.parametrize(
    ("name", "value", "json_says", "grpc_says"),
    [
        ("log_info", "yes", "attempt to access JSON non-boolean as boolean", "expect boolean for 'log_info'"),
        ("log_error", 1, "attempt to access JSON non-boolean as boolean", "expect boolean for 'log_error'"),
        (
            "log_verbose_level",
            "high",
            "attempt to access JSON non-unsigned-integer as unsigned-integer",
            "expect int32 for 'log_verbose_level'",
        ),
        (
            "log_verbose_level",
            True,
            "attempt to access JSON non-unsigned-integer as unsigned-integer",
            "expect int32 for 'log_verbose_level'",
        ),
        ("log_format", True, "attempt to access JSON non-string as string", "expect string for 'log_format'"),
    ],
)
def test_values_of_the_wrong_type(name: str, value: Any, json_says: str, grpc_says: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_log(json.dumps({name: value}).encode())
    assert text_of(error) == f"{json_says} (at {name})"
    with pytest.raises(InvalidInput) as error:
        triton_grpc.decode_log_request(log_request(**{name: value}))
    assert text_of(error) == grpc_says


@pytest.mark.clause("TR-R10")
@pytest.mark.parametrize("level", [-1, 1 << 32, 1.5])
def test_a_verbose_level_fits_the_message(level: float) -> None:
    with pytest.raises(InvalidInput):
        parse_log(json.dumps({"log_verbose_level": level}).encode())


@pytest.mark.clause("TR-R10")
def test_formats() -> None:
    with pytest.raises(InvalidInput) as error:
        parse_log(b'{"log_format":"fancy"}')
    assert text_of(error) == "invalid argument for --log_format, got: fancy"
    with pytest.raises(InvalidInput) as error:
        triton_grpc.decode_log_request(log_request(log_format="fancy"))
    assert text_of(error) == "invalid argument for log_format, got: fancy"


@pytest.mark.clause("TR-G3")
def test_a_setting_without_a_value() -> None:
    request = pb.LogSettingsRequest()
    request.settings["log_info"].SetInParent()
    with pytest.raises(InvalidInput, match="expect boolean for 'log_info'"):
        triton_grpc.decode_log_request(request.SerializeToString())


@pytest.mark.clause("TR-R10")
def test_the_log_file_is_the_operators() -> None:
    said = "log file location can not be updated through network protocol"
    with pytest.raises(Unsupported) as error:
        parse_log(b'{"log_file":"golden.log","log_info":false}')
    assert text_of(error) == said
    with pytest.raises(Unsupported) as error:
        triton_grpc.decode_log_request(log_request(log_file="golden.log"))
    assert text_of(error) == said


@pytest.mark.clause("TR-R10")
@pytest.mark.parametrize("body", [b"nope", b"[]", b"7"])
def test_log_settings_of_the_wrong_form(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_log(body)
