"""The dialects' operations and ports put together, as the server hands them to the transport."""

import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from salver.dialects.clouds.doors import SageMaker, SageMakerDoor, Vertex, VertexDoor
from salver.dialects.clouds.many_models import ManyModels
from salver.dialects.oip.faults import http_fault
from salver.dialects.oip.foreign_service import OpenInferenceMessages
from salver.dialects.oip.grpc_methods import OpenInferenceMethods
from salver.dialects.oip.http_operations import OpenInferenceOperations
from salver.dialects.oip.rules import OipRules
from salver.dialects.openai.operations import OpenAiOperations
from salver.dialects.openai.voice import Spoken
from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.torchserve.front import Backing
from salver.dialects.torchserve.ports import TorchServePorts
from salver.dialects.triton.grpc_methods import TritonMethods
from salver.dialects.triton.http_operations import TritonOperations
from salver.dialects.triton.ports import TritonExposition
from salver.transport.access_check import Access
from salver.transport.calls import RequestContext
from salver.transport.doors import App
from salver.transport.grpc_table import GrpcTable
from salver.transport.ports import Control, InferDoor, Looking
from salver.transport.restrict import Guard
from salver.transport.routes import HttpRouter
from salver.transport.server import FrontConfig
from salver.transport.server_operations import ServerOperations


class Lookups(NamedTuple):
    """What single dialects know of the models, beside the server's control.

    Attributes:
        speech: What OpenAI's routes mean by a name.
        model_config: A version's configuration in Triton's form, serialised.
        reload_config: Serves the models of a serialised ``tensorflow.serving.ModelServerConfig``.
    """

    speech: Callable[[str], Spoken]
    model_config: Callable[[str, str], bytes]
    reload_config: Callable[[bytes], Coroutine[Any, Any, None]]


def http_router(
    door: InferDoor,
    control: Control,
    lookups: Lookups,
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
            TritonOperations(door, control, exposition, lookups.model_config, context, rules.regions).table(),
            OpenAiOperations(
                door, control, lookups.speech, context.server_name, began, context.decoders
            ).table(),
            TensorFlowServingOperations(
                door, control, lambda name: lookups.speech(name).model, exposition, context, tfs, began
            ).table(),
            ServerOperations(control, exposition, context.parting).table(),
        ]
    )
    return router


def grpc_tables(
    door: InferDoor,
    control: Control,
    lookups: Lookups,
    exposition: TritonExposition,
    context: RequestContext,
    rules: OipRules,
    tfs: TfsRules,
) -> tuple[GrpcTable, ...]:
    """Return the gRPC methods of all dialects but TorchServe's; Triton's after those that they extend."""
    return (
        OpenInferenceMethods(door, control, context, rules).table(),
        TritonMethods(door, control, exposition, lookups.model_config, rules.regions).table(),
        TensorFlowServingMethods(door, control, exposition, lookups.reload_config, tfs).table(),
    )


def torchserve_ports(backing: Backing, control: Looking) -> TorchServePorts:
    """Return TorchServe's interfaces, whose Open Inference service has that protocol's messages."""
    return TorchServePorts(backing, control, OpenInferenceMessages())


def platform_app(
    front: App, config: FrontConfig, control: Control, guard: Guard | None, access: Access
) -> App:
    """Return the application as the port of SageMaker or Vertex AI shows it."""
    if config.serves == "vertex-ai":
        return VertexDoor(front, msgspec.convert(config.platform, Vertex), control, http_fault)
    sagemaker = msgspec.convert(config.platform, SageMaker)
    models = ManyModels(control, guard, http_fault, is_allowed=sagemaker.brings_models)
    return SageMakerDoor(front, sagemaker, control, models, http_fault, access)
