"""Tables of the operations of all dialects, as the server hands them to the transport."""

import time

from salver.dialects.oip.grpc_methods import OpenInferenceMethods
from salver.dialects.oip.http_operations import OpenInferenceOperations
from salver.dialects.oip.rules import OipRules
from salver.dialects.openai.operations import OpenAiOperations
from salver.dialects.openai.ports import SpeechControl
from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.triton.grpc_methods import TritonMethods
from salver.dialects.triton.http_operations import TritonOperations
from salver.dialects.triton.ports import TritonExposition
from salver.transport.calls import RequestContext
from salver.transport.grpc_table import GrpcTable
from salver.transport.ports import InferDoor
from salver.transport.routes import HttpRouter
from salver.transport.server_operations import ServerOperations


def http_router(
    door: InferDoor,
    control: SpeechControl,
    exposition: TritonExposition,
    context: RequestContext,
    rules: OipRules,
    tfs: TfsRules,
) -> HttpRouter:
    """Return the router of all HTTP operations; the first table whose path it is lays out an error."""
    began = int(time.time())
    router = HttpRouter(
        [
            OpenInferenceOperations(
                door, control, exposition, context, rules, lambda: router.operations
            ).table(),
            TritonOperations(door, control, exposition, context, rules.regions).table(),
            OpenAiOperations(door, control, context.server_name, began, context.decoders).table(),
            TensorFlowServingOperations(door, control, exposition, context, tfs, began).table(),
            ServerOperations(control, exposition, context.parting).table(),
        ]
    )
    return router


def grpc_tables(
    door: InferDoor,
    control: SpeechControl,
    exposition: TritonExposition,
    context: RequestContext,
    rules: OipRules,
    tfs: TfsRules,
) -> tuple[GrpcTable, ...]:
    """Return the gRPC methods of all dialects but TorchServe's; Triton's after those that they extend."""
    return (
        OpenInferenceMethods(door, control, context, rules).table(),
        TritonMethods(door, control, exposition, rules.regions).table(),
        TensorFlowServingMethods(door, control, exposition, tfs).table(),
    )
