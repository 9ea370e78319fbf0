"""The dialects' tables of operations around fakes."""

from typing import Any

import msgspec

from salver.dialects.oip.grpc_methods import OpenInferenceMethods
from salver.dialects.oip.http_operations import OpenInferenceOperations
from salver.dialects.oip.regions import OipRules
from salver.dialects.openai.operations import OpenAiOperations
from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.torchserve.grpc_methods import TorchServeMethods
from salver.dialects.triton.grpc_methods import TritonMethods
from salver.dialects.triton.http_operations import TritonOperations
from salver.transport.calls import RequestContext
from salver.transport.grpc import GrpcFront
from salver.transport.routes import HttpRouter
from salver.transport.server_operations import ServerOperations


def http_router(
    door: Any,
    control: Any,
    exposition: Any,
    context: RequestContext,
    rules: OipRules = OipRules(),  # noqa: B008
    tfs: TfsRules = TfsRules(),  # noqa: B008
) -> HttpRouter:
    """Return the router of all dialects' HTTP operations."""
    regions = rules.regions

    def model_config(model: str, version: str) -> bytes:
        return control.model_config(model, version)

    oip = OpenInferenceOperations(door, control, exposition, context, rules, lambda: router.operations)
    triton = TritonOperations(door, control, exposition, model_config, context, regions)
    openai = OpenAiOperations(door, control, lambda name: control.speech(name), context)
    tensorflow = TensorFlowServingOperations(
        door, control, lambda name: control.speech(name).model, exposition, context, tfs
    )
    own = ServerOperations(control, exposition, context.parting)
    extensions = triton.table(lambda *version: exposition.token_room(*version))
    router = HttpRouter([oip.table(), extensions, openai.table(), tensorflow.table(), own.table()])
    return router


def grpc_front(
    door: Any,
    control: Any,
    exposition: Any,
    context: RequestContext,
    max_message: int,
    torchserve: TorchServeMethods | None = None,
) -> GrpcFront:
    """Return the gRPC methods of all dialects."""
    context = msgspec.structs.replace(context, max_message=max_message)
    rules = OipRules()
    found = (
        OpenInferenceMethods(door, control, context, rules).table(),
        TritonMethods(
            door, control, exposition, lambda *model: control.model_config(*model), rules.regions
        ).table(),
        TensorFlowServingMethods(
            door, control, exposition, lambda config: control.reload_config(config), TfsRules()
        ).table(),
    )
    if torchserve is not None:
        found += torchserve.tables()
    return GrpcFront(found, control, context)


#: Finds routes in the tables of all dialects; nothing stands behind them.
ROUTER = http_router(None, None, None, RequestContext(lambda: 0.0, lambda: "id"))
OPERATIONS = ROUTER.operations
match = ROUTER.match
