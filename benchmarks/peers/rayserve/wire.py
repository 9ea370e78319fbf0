"""The gRPC service that Ray's proxy is to route; requests stay bytes, so that they can be pickled."""

from typing import Any

import grpc


def add_service(servicer: Any, server: Any) -> None:
    """What a generated ``add_..._to_server`` does, for the one method that is measured."""
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(servicer.ModelInfer)}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
