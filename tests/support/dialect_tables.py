"""The dialects' tables of operations around fakes."""

from typing import Any

import msgspec

from salver.dialects import tables
from salver.dialects.oip.rules import OipRules
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.torchserve.grpc_methods import TorchServeMethods
from salver.transport.calls import RequestContext
from salver.transport.grpc import GrpcFront
from salver.transport.routes import HttpRouter


def lookups(control: Any) -> tables.Lookups:
    """Return those methods of a fake that single dialects call."""
    return tables.Lookups(
        lambda name: control.speech(name),
        lambda model, version: control.model_config(model, version),
        lambda config: control.reload_config(config),
    )


def http_router(
    door: Any,
    control: Any,
    exposition: Any,
    context: RequestContext,
    rules: OipRules = OipRules(),  # noqa: B008
    tfs: TfsRules = TfsRules(),  # noqa: B008
) -> HttpRouter:
    """Return the router of all dialects' HTTP operations."""
    return tables.http_router(door, control, lookups(control), exposition, context, rules, tfs)


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
    found = tables.grpc_tables(door, control, lookups(control), exposition, context, OipRules(), TfsRules())
    if torchserve is not None:
        found += torchserve.tables()
    return GrpcFront(found, control, context)


#: Finds routes in the tables of all dialects; nothing stands behind them.
ROUTER = http_router(None, None, None, RequestContext(lambda: 0.0, lambda: "id"))
OPERATIONS = ROUTER.operations
match = ROUTER.match
