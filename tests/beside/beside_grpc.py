"""What is asked of both servers over gRPC?"""

import base64
import random
import struct
from collections.abc import Iterator
from typing import Any

from beside_cases import Case, changed, paths_of, rpc, scenario, stream
from beside_models import TYPES

Json = Any
_CONTENTS = ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes")


def b64(raw: bytes) -> str:
    """Bytes in proto-JSON."""
    return base64.b64encode(raw).decode()


def one(name: str, datatype: str, shape: list[int], **more: Json) -> Json:
    """An input, without contents."""
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def add_sub(rows: int = 1, **more: Json) -> Json:
    """Of ``addsub``, typed."""
    given = {"contents": {"int_contents": list(range(rows * 4))}}
    inputs = [one(f"INPUT{i}", "INT32", [rows, 4], **given) for i in (0, 1)]
    return {"model_name": "addsub", "inputs": inputs, **more}


def program(text: str, model: str = "script", **more: Json) -> Json:
    """Of ``script``."""
    given = one("PROGRAM", "BYTES", [1], contents={"bytes_contents": [b64(text.encode())]})
    return {"model_name": model, "inputs": [given], **more}


_ODD: dict[str, tuple[Json, ...]] = {
    "name": ("", "x", "INPUT0", "é"),
    "model_name": ("", "nope", "ADDSUB", "chain", "words", "repeat"),
    "model_version": ("", "1", "01", "2", "x", "-1", "1.0", "0", "99999999999999999999"),
    "datatype": ("", "int32", "INT64", "FP16", "BYTES", "X", "TYPE_INT32"),
    "shape": ([], [4], [0, 4], [-1, 4], [1, 1, 4], [2, 2], [1, 5], [8, 4]),
    "id": ("", "x" * 100, "é", "a b"),
    "contents": ({}, *({f"{c}_contents": []} for c in _CONTENTS), {"int_contents": [1]},
    {"int64_contents": ["1"] * 4},
                 {"int_contents": [1] * 4, "bool_contents": [True]}, {"int_contents": [1] * 5},
                 {"fp32_contents": [1.0] * 4},
                 {"bytes_contents": ["AAAA"]}),
    "inputs": ([],),
    "outputs": ([], [{"name": "OUTPUT0"}], [{"name": "X"}], [{"name": ""}], [{"name": "OUTPUT0"}] * 2),
    "raw_input_contents": ([], [""], [b64(b"x")], [b64(b"\1\0\0\0" * 4)], [b64(b"\1\0\0\0" * 4)] * 2,
                           [b64(b"\1\0\0\0" * 4)] * 3, [b64(b"\1" * 15), b64(b"\1" * 16)]),
}  # fmt: skip


def infer_cases() -> Iterator[Case]:
    """Fields of a request that are odd."""
    full = add_sub(1, id="7", model_version="1", outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT1"}])
    for path in paths_of(full):
        if path:
            yield rpc(f"grpc-gone-{path}", "ModelInfer", changed(full, path, None, is_deleted=True))
            for number, odd in enumerate(_ODD.get(str(path[-1]), ())):
                changes = changed(full, path, odd)
                yield rpc(f"grpc-odd-{path}-{number}", "ModelInfer", changes)
                yield stream(f"grpc-stream-odd-{path}-{number}", [changes, add_sub(1, id="8")])
    bare = add_sub()
    for part in bare["inputs"]:
        del part["contents"]
    for number, raw in enumerate(_ODD["raw_input_contents"]):
        yield rpc(f"grpc-raw-{number}", "ModelInfer", bare | {"raw_input_contents": raw})
        yield rpc(f"grpc-raw-and-{number}", "ModelInfer", full | {"raw_input_contents": raw})
    for name, value in parameters():
        yield rpc(f"grpc-parameter-{name}-{value}", "ModelInfer", add_sub(parameters={name: value}))
        facts = {"model_name": "echo_facts", "parameters": {name: value}}
        facts["inputs"] = [one("IN", "INT32", [1], contents={"int_contents": [1]})]
        yield rpc(f"grpc-facts-{name}-{value}", "ModelInfer", facts)
        yield stream(f"grpc-stream-parameter-{name}-{value}", [add_sub(parameters={name: value})])
        output = add_sub(outputs=[{"name": "OUTPUT0", "parameters": {name: value}}])
        yield rpc(f"grpc-output-parameter-{name}-{value}", "ModelInfer", output)
        given = add_sub()
        given["inputs"][0]["parameters"] = {name: value}
        yield rpc(f"grpc-input-parameter-{name}-{value}", "ModelInfer", given)
    for number, metadata in enumerate(
        ([["triton_grpc_error", "true"]], [["triton_grpc_error", "1"]], [["x-other", "1"]])
    ):
        for model in ("nope", "raiser"):
            message = {
                "model_name": model,
                "inputs": [one("CODE", "INT32", [1], contents={"int_contents": [2]})],
            }
            yield stream(f"grpc-error-{model}-{number}", [message], metadata=metadata)


def parameters() -> Iterator[tuple[str, Json]]:
    """Reserved names and others with every type of value."""
    values = ({"int64_param": "1"}, {"int64_param": "-1"}, {"string_param": "x"}, {"string_param": "12"},
        {"bool_param": True},
              {"double_param": 1.5}, {"uint64_param": "7"}, {}, {"string_param": ""},
              {"int64_param": "0"})  # fmt: skip
    names = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "own", "headers",
        "binary_data_output",
             "triton_enable_empty_final_response", "triton_other", "classification", "binary_data",
             "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "")  # fmt: skip
    for name in names:
        for value in values:
            yield name, value


def datatype_cases(rng: random.Random) -> Iterator[Case]:
    """Typed and raw contents of every datatype."""
    values: dict[str, list[Json]] = {
        "bool": [True, False], "int": [1, -1], "int64": ["1", "-5"], "uint": [1, 2], "uint64": ["1",
        "18446744073709551615"],
        "fp32": [1.5, -0.0], "fp64": [1e300, 0.1], "bytes": [b64(b"a"), b64(b"\0\1")],
    }  # fmt: skip
    for datatype, wire in [*TYPES.items(), ("BF16", "BF16"), ("X", "X")]:
        model = f"ident_{datatype.lower()}" if datatype in TYPES else "ident_fp32"
        for name, some in values.items():
            given = one("X", wire, [2], contents={f"{name}_contents": some})
            yield rpc(f"grpc-typed-{datatype}-{name}", "ModelInfer", {"model_name": model, "inputs": [given]})
        for length in (0, 1, 2, 4, 8, 16):
            raw = [b64(struct.pack("<I", 4) + b"abcd" if wire == "BYTES" and length == 8 else b"\1" * length)]
            message = {"model_name": model, "inputs": [one("X", wire, [2])], "raw_input_contents": raw}
            yield rpc(f"grpc-raw-{datatype}-{length}", "ModelInfer", message)
    for number in range(10):
        rows = rng.randrange(1, 9)
        output = {"name": "Y", "parameters": {"classification": {"int64_param": str(rng.randrange(-1, 6))}}}
        given = one(
            "X", "FP32", [rows, 4], contents={"fp32_contents": [rng.randrange(9) for _ in range(rows * 4)]}
        )
        message = {"model_name": "labels", "inputs": [given], "outputs": [output]}
        yield rpc(f"grpc-class-{number}", "ModelInfer", message)


def stream_cases() -> Iterator[Case]:
    """Decoupled models and others on a stream."""
    flag = {"triton_enable_empty_final_response": {"bool_param": True}}
    for number, values in enumerate(([], [1], [1, 2, 3], [1, -1, 2], [-1])):
        given = one("IN", "INT32", [len(values)], contents={"int_contents": values})
        if not values:
            given.pop("contents")
        message: Json = {"model_name": "repeat", "id": f"r{number}", "inputs": [given]}
        if not values:
            message["raw_input_contents"] = [""]
        for asked in ({}, {"parameters": flag}):
            name = f"grpc-repeat-{number}-{bool(asked)}"
            yield stream(name, [message | asked], compare={"how": "json", "by_id": True})
            yield stream(
                f"{name}-beside", [message | asked, add_sub(id="a")], compare={"how": "json", "by_id": True}
            )
            yield rpc(f"{name}-unary", "ModelInfer", message | asked)
            strict = [["triton_grpc_error", "true"]]
            yield stream(f"{name}-strict", [message | asked], metadata=strict)
        for outputs in ([{"name": "INDEX"}], [{"name": "X"}]):
            yield stream(f"grpc-repeat-{number}-{outputs[0]['name']}", [message | {"outputs": outputs}])
    for count in (0, 1, 5):
        many = [add_sub(id=str(n)) for n in range(count)]
        yield stream(f"grpc-stream-{count}", many, compare={"how": "json", "by_id": True})
    slow = {"model_name": "slow", "inputs": [one("MS", "INT32", [1, 1], contents={"int_contents": [300]})]}
    yield rpc("grpc-deadline", "ModelInfer", slow, timeout=0.1)
    yield stream("grpc-stream-deadline", [slow], timeout=0.1)
    for code in range(-1, 17):
        message = {
            "model_name": "raiser",
            "inputs": [one("CODE", "INT32", [1], contents={"int_contents": [code]})],
        }
        yield rpc(f"grpc-raiser-{code}", "ModelInfer", message)
        yield stream(f"grpc-stream-raiser-{code}", [message])
        yield stream(f"grpc-stream-raiser-{code}-strict", [message], metadata=[["triton_grpc_error", "true"]])


def sequence_cases(rng: random.Random) -> Iterator[Case]:
    """Sequences in random order."""
    for run in range(30):
        model = rng.choice(("seq_direct", "seq_oldest"))
        ids: list[Json] = [{"int64_param": str(5000 + run)}, {"string_param": f"g{run}"}]
        messages = []
        for number in range(rng.randrange(2, 7)):
            id = ids[0] if rng.random() < 0.7 else ids[1]
            flags: Json = {"sequence_id": id}
            if number == 0 or rng.random() < 0.2:
                flags["sequence_start"] = {"bool_param": True}
            if rng.random() < 0.25:
                flags["sequence_end"] = {"bool_param": True}
            given = one("IN", "INT32", [1, 1], contents={"int_contents": [number + 1]})
            messages.append({"model_name": model, "inputs": [given], "parameters": flags, "id": str(number)})
        close = [
            {**messages[0], "parameters": {"sequence_id": id, "sequence_start": {"bool_param": True},
                                           "sequence_end": {"bool_param": True}}} for id in ids
        ]  # fmt: skip
        if run % 2:
            calls = [rpc(f"grpc-sequence-{run}-{n}", "ModelInfer", m) for n, m in enumerate(messages + close)]
            yield from scenario(f"grpc-sequence-{run}", calls)
        else:
            yield stream(f"grpc-sequence-{run}", messages + close, gap_s=0.02)


def admin_cases() -> Iterator[Case]:
    """Everything but inference."""
    names: tuple[Json, ...] = (
        "",
        "addsub",
        "nope",
        "ver_specific",
        "ver_latest",
        "chain",
        "words",
        "staged",
        "labels",
    )
    for name in names:
        for version in _ODD["model_version"]:
            for call in ("ModelReady", "ModelMetadata", "ModelConfig"):
                yield rpc(f"grpc-{call}-{name}-{version}", call, {"name": name, "version": version})
            ignore = {"how": "json", "ignore": ["messages.*.model_stats.*.inference_stats.**",
            "messages.*.model_stats.*.inference_count",
                      "messages.*.model_stats.*.execution_count", "messages.*.model_stats.*.batch_stats",
                      "messages.*.model_stats.*.last_inference"],
                      "unordered": ["messages.*.model_stats"]}  # fmt: skip
            message = {"name": name, "version": version}
            yield rpc(f"grpc-ModelStatistics-{name}-{version}", "ModelStatistics", message, compare=ignore)
        yield rpc(f"grpc-TraceSetting-{name}", "TraceSetting", {"model_name": name})
    for call in ("ServerLive", "ServerReady", "LogSettings", "TraceSetting", "RepositoryModelLoad",
        "RepositoryModelUnload",
                 "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "CudaSharedMemoryStatus",
                 "SystemSharedMemoryUnregister", "CudaSharedMemoryUnregister", "CudaSharedMemoryRegister",
                 "ModelInfer"):  # fmt: skip
        yield rpc(f"grpc-empty-{call}", call)
    for call in ("RepositoryModelLoad", "RepositoryModelUnload"):
        for number, message in enumerate((
            {"model_name": "nope"}, {"repository_name": "x", "model_name": "echo"}, {"model_name": "echo"},
            {"model_name": "echo", "parameters": {"config": {"string_param": "{"}}},
            {"model_name": "echo", "parameters": {"config": {"int64_param": "1"}}},
            {"model_name": "echo", "parameters": {"other": {"string_param": "{"}}},
            {"model_name": "echo", "parameters": {"unload_dependents": {"bool_param": True}}},
            {"model_name": "echo", "parameters": {"unload_dependents": {"string_param": "x"}}},
            {"model_name": "echo", "parameters": {"file:1/model.py": {"bytes_param": ""}}},
        )):  # fmt: skip
            after = rpc(f"grpc-{call}-{number}-after", "RepositoryModelUnload", {"model_name": "echo"})
            yield from scenario(f"grpc-{call}-{number}", [rpc(f"grpc-{call}-{number}", call, message), after])
    levels: tuple[tuple[str, Json], ...] = (
        ("trace_level", ["TIMESTAMPS"]), ("trace_level", ["OFF"]), ("trace_level", []), ("trace_level",
        ["X"]),
        ("trace_level", ["OFF", "TIMESTAMPS"]), ("trace_rate", ["1"]), ("trace_rate", ["x"]),
        ("trace_rate", []),
        ("trace_rate", ["1", "2"]), ("trace_count", ["5"]), ("trace_count", ["-2"]), ("trace_file", ["x"]),
        ("log_frequency", ["3"]), ("other", ["1"]), ("trace_mode", ["triton"]),
    )  # fmt: skip
    for number, (name, values) in enumerate(levels):
        for model in ("", "addsub", "nope"):
            message = {"settings": {name: {"value": values}}, "model_name": model}
            reset = {
                "settings": {n: {} for n in ("trace_level", "trace_rate", "trace_count", "log_frequency")},
                "model_name": model,
            }
            steps = [rpc(f"grpc-trace-{number}-{model}", "TraceSetting", message)]
            steps.append(rpc(f"grpc-trace-{number}-{model}-reset", "TraceSetting", reset))
            yield from scenario(f"grpc-trace-{number}-{model}", steps)
    settings: tuple[tuple[str, Json], ...] = (
        ("log_info", {"bool_param": True}), ("log_info", {"string_param": "x"}), ("log_info",
        {"uint32_param": 1}), ("log_info", {}),
        ("log_verbose_level", {"uint32_param": 1}), ("log_verbose_level", {"bool_param": True}),
        ("log_file", {"string_param": "x"}),
        ("log_format", {"string_param": "ISO8601"}), ("log_format", {"string_param": "x"}), ("other",
        {"bool_param": True}),
        ("log_warning", {"bool_param": True}), ("log_error", {"bool_param": True}),
    )  # fmt: skip
    usual = {"log_verbose_level": {"uint32_param": 0}, "log_format": {"string_param": "default"}}
    for number, (name, value) in enumerate(settings):
        steps = [rpc(f"grpc-log-{number}", "LogSettings", {"settings": {name: value}})]
        steps.append(rpc(f"grpc-log-{number}-reset", "LogSettings", {"settings": usual}))
        yield from scenario(f"grpc-log-{number}", steps)


def grpc_cases(seed: int) -> Iterator[Case]:
    """All of them."""
    rng = random.Random(seed)
    yield from infer_cases()
    yield from datatype_cases(rng)
    yield from stream_cases()
    yield from sequence_cases(rng)
    yield from admin_cases()
