"""The dialects' tables of operations around fakes; without those of dialects that are not in the tree."""

import importlib.util
from collections.abc import Callable
from typing import Any

import msgspec

from salver.transport.calls import RequestContext
from salver.transport.grpc import GrpcFront, GrpcTable
from salver.transport.routes import HttpRouter
from salver.transport.server_operations import ServerOperations


def _is_there(dialect: str) -> bool:
    return importlib.util.find_spec(f"salver.dialects.{dialect}") is not None


def _config_of(control: Any) -> Callable[[str, str], bytes]:
    """Return what asks the control plane for a model's configuration, which not every fake has."""
    return lambda model, version: bytes(control.model_config(model, version))


def http_router(
    door: Any, control: Any, exposition: Any, context: RequestContext, rules: Any = None, tfs: Any = None
) -> HttpRouter:
    """Return the router of all dialects' HTTP operations, by rules of OIP's and of TensorFlow Serving's."""
    tables = []
    regions = None
    if _is_there("oip"):
        from salver.dialects.oip.http_operations import OpenInferenceOperations
        from salver.dialects.oip.regions import OipRules

        rules = rules or OipRules()
        regions = rules.regions
        oip = OpenInferenceOperations(door, control, exposition, context, rules, lambda: router.operations)
        tables.append(oip.table())
    if _is_there("triton") and regions is not None:
        from salver.dialects.triton.http_operations import TritonOperations

        triton = TritonOperations(door, control, exposition, _config_of(control), context, regions)
        tables.append(triton.table(lambda *version: exposition.token_room(*version)))
    if _is_there("openai"):
        from salver.dialects.openai.operations import OpenAiOperations

        openai = OpenAiOperations(door, control, lambda name: control.speech(name), context)
        tables.append(openai.table())
    if _is_there("tensorflow"):
        from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
        from salver.dialects.tensorflow.rules import TfsRules

        tensorflow = TensorFlowServingOperations(
            door, control, lambda name: control.speech(name).model, exposition, context, tfs or TfsRules()
        )
        tables.append(tensorflow.table())
    router = HttpRouter([*tables, ServerOperations(control, exposition, context.parting).table()])
    return router


def grpc_front(
    door: Any,
    control: Any,
    exposition: Any,
    context: RequestContext,
    max_message: int,
    torchserve: Any = None,
) -> GrpcFront:
    """Return the gRPC methods of all dialects; of TorchServe's, if its methods are given."""
    context = msgspec.structs.replace(context, max_message=max_message)
    tables: list[GrpcTable] = []
    if _is_there("oip"):
        from salver.dialects.oip.grpc_methods import OpenInferenceMethods
        from salver.dialects.oip.regions import OipRules

        rules = OipRules()
        tables.append(OpenInferenceMethods(door, control, context, rules).table())
        if _is_there("triton"):
            from salver.dialects.triton.grpc_methods import TritonMethods

            triton = TritonMethods(door, control, exposition, _config_of(control), rules.regions)
            tables.append(triton.table())
    if _is_there("tensorflow"):
        from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
        from salver.dialects.tensorflow.rules import TfsRules

        tensorflow = TensorFlowServingMethods(
            door, control, exposition, lambda config: control.reload_config(config), TfsRules()
        )
        tables.append(tensorflow.table())
    if torchserve is not None:
        tables += torchserve.tables()
    return GrpcFront(tables, control, context)


#: Finds routes in the tables of all dialects; nothing stands behind them.
ROUTER = http_router(None, None, None, RequestContext(lambda: 0.0, lambda: "id"))
OPERATIONS = ROUTER.operations
match = ROUTER.match
