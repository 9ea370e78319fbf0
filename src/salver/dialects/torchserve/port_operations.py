"""Operations of one port of TorchServe's REST interface."""

from typing import Final

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.json_layout import TorchServeReply, json_reply
from salver.dialects.torchserve.openapi import describe_port
from salver.dialects.torchserve.operations import InferenceOperations, ManagementOperations, Method, Request
from salver.dialects.torchserve.port_paths import PortPaths
from salver.encoding.exposition import PLAIN, chosen
from salver.transport.effects import changing, reads
from salver.words.errors import NoRoute, WrongVerb

#: Operations that a port for everything has only if the operator allows changes.
_CHANGES: Final = frozenset(("scale", "set_default", "register_workflow", "unregister_workflow"))


class PortOperations:
    """Operations of one port, by name.

    Attributes:
        inference: Those of models.
        changing: Names of operations that need a permission.
    """

    def __init__(self, backing: Backing, paths: PortPaths) -> None:
        self._backing = backing
        self._paths = paths
        self.inference = InferenceOperations(backing.handlers)
        management = ManagementOperations(backing.handlers, backing.keys, may_change=backing.rules.may_change)
        self._methods: dict[str, Method] = {
            **backing.more,
            **self.inference.http(),
            **management.http(),
            "describe_port": self._describe_port,
            "metrics": self._metrics,
        }
        self.changing = changing(self._methods).keys()

    async def run(self, request: Request) -> TorchServeReply:
        """Answer a request. Raises SalverError."""
        operation = request.match.operation
        if operation == "token" and self._backing.keys is None:
            raise NoRoute("the server has no keys")
        if self._paths.is_common and operation in _CHANGES and not self._backing.rules.may_change:
            raise WrongVerb("requests may not change models (enable_model_api)")
        method = self._methods.get(operation)
        if method is None:
            raise NoRoute(f"the server has no operation {operation}")
        return await method(request)

    @reads
    async def _describe_port(self, request: Request) -> TorchServeReply:
        return json_reply(describe_port(self._paths.surfaces))

    @reads
    async def _metrics(self, request: Request) -> TorchServeReply:
        # All metrics, or those that the query names (TS-M11).
        if not self._backing.rules.has_metrics:
            raise NoRoute("enable_metrics_api is false")
        page = b""
        if self._backing.rules.shows_metrics:
            page, _ = self._backing.exposition.metrics("")
            page = chosen(page, [value for name, value in request.query if name == "name[]"])
        return TorchServeReply(200, page, ((b"content-type", PLAIN),))
