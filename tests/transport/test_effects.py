"""Every operation of every table is said to read or to change something."""

import inspect
import itertools
import re
from types import SimpleNamespace
from typing import Any

import pytest
from dialect_tables import OPERATIONS, grpc_front, http_router
from tritonclient.grpc import service_pb2

from salver.dialects.clouds import doors as clouds
from salver.dialects.clouds.doors import SageMaker, SageMakerDoor
from salver.dialects.oip.faults import http_fault
from salver.dialects.tensorflow import paths as tfs_paths
from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.grpc_methods import TorchServeMethods
from salver.dialects.torchserve.operations import WorkflowOperations
from salver.dialects.torchserve.paths import CHANGING as TS_CHANGING
from salver.dialects.torchserve.paths import find
from salver.dialects.torchserve.port_operations import PortOperations
from salver.dialects.torchserve.port_paths import PortPaths
from salver.dialects.torchserve.rules import TorchServeRules
from salver.encoding.bodies import HttpReply
from salver.features.management.placement import placement_operation
from salver.features.management.serving_operations import serving_operations
from salver.features.registry.audit_operations import audit_operations
from salver.features.registry.registry_operations import model_operations
from salver.features.releases.release_operations import (
    outcome_operations,
    planning_operations,
    plug_operations,
    release_operations,
)
from salver.transport.access_check import Access
from salver.transport.calls import RequestContext
from salver.transport.effects import changes, changes_if, changing, is_marked, reads
from salver.transport.grpc import GrpcFront

NOTHING: Any = SimpleNamespace()
CONTEXT = RequestContext(lambda: 0.0, lambda: "id")
RULES = TorchServeRules(speaks_oip=True)

#: POSTs that change nothing: they ask models, or tell something of them.
ASKING = {
    *("infer", "explain_v2", "generate", "generate_stream", "index", "index_named"),
    *("chat", "completions", "embeddings", "transcriptions", "translations", *tfs_paths.INFERRING),
}
CHANGES_OVER_HTTP = {
    *("load", "unload", "load_named", "unload_named", "load_v1", "unload_v1"),
    *("update_log_settings", "update_trace_setting"),
    *("region_register", "region_unregister", "cuda_register", "cuda_unregister"),
}
CHANGES_OVER_GRPC = {
    *("RepositoryModelLoad", "RepositoryModelUnload", "HandleReloadConfigRequest"),
    *("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    *("RegisterModel", "UnregisterModel", "ScaleWorker", "SetDefault"),
}
CHANGES_OF_TORCHSERVE = {
    *("register", "scale", "unregister", "set_default", "token"),
    *("register_workflow", "unregister_workflow"),
}


def grpc_methods() -> GrpcFront:
    torchserve = TorchServeMethods(Backing(NOTHING, NOTHING, NOTHING, CONTEXT, RULES), NOTHING, NOTHING)
    return grpc_front(NOTHING, NOTHING, NOTHING, CONTEXT, max_message=1, torchserve=torchserve)


def torchserve() -> PortOperations:
    more = WorkflowOperations(NOTHING, CONTEXT).http()
    backing = Backing(NOTHING, NOTHING, NOTHING, CONTEXT, RULES, more=more)
    return PortOperations(backing, PortPaths(backing, None))


def test_http_every_operation_that_is_done_has_a_row() -> None:
    done = set(http_router(NOTHING, NOTHING, NOTHING, CONTEXT).endpoints)
    rows = {operation.name for operation in OPERATIONS}
    assert done - rows == {"options_v1"}
    assert rows <= done


def test_http_reading_and_changing() -> None:
    told: dict[str, set[bool]] = {}
    for operation in OPERATIONS:
        told.setdefault(operation.name, set()).add(operation.changes)
        if operation.verb != "GET":
            assert operation.changes != (operation.name in ASKING), operation
        else:
            assert not operation.changes, operation
    assert all(len(effects) == 1 for effects in told.values())
    assert {name for name, effects in told.items() if effects == {True}} == CHANGES_OVER_HTTP
    endpoints = http_router(NOTHING, NOTHING, NOTHING, CONTEXT).endpoints
    assert {name for name, endpoint in endpoints.items() if endpoint.changes} == CHANGES_OVER_HTTP


def test_grpc_every_method_is_classified() -> None:
    methods = grpc_methods()
    table = {**methods._methods, **{path: stream.read for path, stream in methods._streams.items()}}
    assert [path for path in table if not is_marked(table[path])] == []  # type: ignore[arg-type]
    always = {path for path, is_change in methods._changing.items() if is_change is None}
    assert {path.rpartition("/")[2] for path in always} == CHANGES_OVER_GRPC
    assert {path.rpartition("/")[2] for path in methods._changing.keys() - always} == {
        "LogSettings",
        "TraceSetting",
    }
    assert {path for path in always if ".management." in path} == TS_CHANGING


def test_grpc_settings_without_a_change_are_only_read() -> None:
    log, trace = service_pb2.LogSettingsRequest(), service_pb2.TraceSettingRequest(model_name="m")
    methods = grpc_methods()
    is_log, is_trace = (
        methods._changing[f"/inference.GRPCInferenceService/{name}"]
        for name in ("LogSettings", "TraceSetting")
    )
    assert is_log is not None and is_trace is not None
    assert not is_log(log.SerializeToString())
    assert not is_trace(trace.SerializeToString())
    log.settings["log_info"].bool_param = False
    trace.settings["trace_rate"].value[:] = []  # cleared: as for all models again
    assert is_log(log.SerializeToString())
    assert is_trace(trace.SerializeToString())


def test_torchserve_every_operation_is_classified() -> None:
    app = torchserve()
    assert [name for name, method in app._methods.items() if not is_marked(method)] == []
    assert app.changing == CHANGES_OF_TORCHSERVE


def test_torchserve_every_path_leads_to_an_operation_of_the_table() -> None:
    """Found by trying all paths of up to four of the words that its table knows, by every verb."""
    source = inspect.getsource(inspect.getmodule(find))  # type: ignore[arg-type]
    words = {word for word in re.findall(r'"([a-z0-9_-]+)"', source) if len(word) < 20} | {"x:predict"}
    known = {*torchserve()._methods, "predict", "invocations"}
    few = ["m", *sorted(words & {"models", "workflows", "token", "v1", "v2", "set-default", "versions"})]
    tried = itertools.chain(([one] for one in words), *(itertools.product(few, repeat=n) for n in (2, 3, 4)))
    found = set()
    for segments, verb in itertools.product(list(tried), ("GET", "POST", "PUT", "DELETE", "OPTIONS")):
        path = "/" + "/".join(segments)
        try:
            asked = find(verb, path.encode(), ["inference", "management", "metrics"], speaks_oip=True)
        except Exception:
            continue
        found.add(asked.operation)
        if verb in ("GET", "OPTIONS") and asked.operation != "token":
            assert asked.operation not in CHANGES_OF_TORCHSERVE, path
    assert found <= known
    assert found >= CHANGES_OF_TORCHSERVE


def test_the_management_interface_every_operation_but_those_that_read() -> None:
    tables = (
        serving_operations(NOTHING, NOTHING, ("", ""), has_registry=True),
        [placement_operation(NOTHING, NOTHING, NOTHING)],
        model_operations(NOTHING),
        release_operations(NOTHING),
        plug_operations(NOTHING),
        outcome_operations(NOTHING),
        planning_operations(),
        audit_operations(NOTHING, NOTHING),
    )
    every = [operation for table in tables for operation in table]
    reading = {"plan", "flagger", "flagger_of_version"}
    assert {o.name for o in every if o.verb != "GET" and not o.changes} == reading
    assert [o.name for o in every if o.verb == "GET" and o.changes] == []


def test_vertex_hands_on_no_change() -> None:
    paths = [re.sub(r"{\w+}", "x", operation.path) for operation in OPERATIONS if operation.changes]
    for path in paths:
        assert not clouds._ASKING.fullmatch(path), path
        assert not clouds._READING.fullmatch(path), path


@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
async def test_sagemaker_brings_models_with_a_permission(verb: str) -> None:
    wanted: list[str] = []

    class Noted(Access):
        async def permit(self, headers: Any, operation: str) -> Any:
            wanted.append(operation)

    class Models:
        def __contains__(self, name: object) -> bool:
            return False

        async def ask(self, *_: Any) -> HttpReply:
            return HttpReply(200, b"")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        pass

    app = SageMakerDoor(NOTHING, SageMaker(), NOTHING, Models(), http_fault, Noted(""))
    for path in ("/models", "/models/m"):
        await app({"type": "http", "method": verb, "path": path, "headers": []}, receive, send)
    assert wanted == ([] if verb == "GET" else ["models"] * 2)


def test_what_nobody_marked_is_a_change() -> None:
    def look() -> None: ...
    def alter() -> None: ...
    def perhaps() -> None: ...
    def unknown() -> None: ...

    table = {
        "look": reads(look),
        "alter": changes(alter),
        "perhaps": changes_if(bool)(perhaps),
        "unknown": unknown,
    }
    assert changing(table) == {"alter": None, "perhaps": bool, "unknown": None}
    assert [name for name, method in table.items() if not is_marked(method)] == ["unknown"]
