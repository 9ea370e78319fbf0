"""Services that answer TorchServe's routes and methods."""

from collections.abc import Mapping

import msgspec

from salver.dialects.torchserve.rules import TorchServeRules
from salver.lazy import lazy_imports
from salver.transport.calls import RequestContext
from salver.transport.ports import Exposition, Handlers, InferDoor

with lazy_imports():
    from salver.dialects.torchserve.operations import Method
    from salver.dialects.torchserve.tokens import TokenKeys


class Backing(msgspec.Struct, frozen=True):
    """Services that answer TorchServe's routes.

    Attributes:
        context: Clock, ids, restrictions.
        keys: Keys that callers must show; None = none.
        more: Further operations, by name.
        max_body: Maximum bytes of a body.
    """

    door: InferDoor
    handlers: Handlers
    exposition: Exposition
    context: RequestContext
    rules: TorchServeRules
    keys: TokenKeys | None = None
    more: Mapping[str, Method] = {}
    max_body: int = 64 << 20
