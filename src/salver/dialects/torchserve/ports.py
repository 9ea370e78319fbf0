"""TorchServe's interfaces, and which routes and methods each port shows.

REST and gRPC share keys and rules.
"""

import time
from typing import Final

import msgspec

from salver.dialects.torchserve.faults import NO_MESSAGE
from salver.dialects.torchserve.front import SURFACES, Backing, TorchServe
from salver.dialects.torchserve.grpc_methods import CHANGING, TorchServeMethods
from salver.dialects.torchserve.tokens import TokenKeys
from salver.encoding.tensor_messages import TensorMessages
from salver.transport.access_check import Access
from salver.transport.budget import Budget
from salver.transport.doors import App, Kind
from salver.transport.ports import Looking
from salver.transport.server import ExactPorts

_EVERYTHING: Final = "all"


class TorchServePorts:
    """Interfaces of one server.

    Args:
        backing: Services of the routes, without keys.
        control: Lists the models.
        messages: Messages of its Open Inference service; None = it has no such service.

    Raises:
        InvalidInput: the key file cannot be written.
    """

    def __init__(self, backing: Backing, control: Looking, messages: TensorMessages | None) -> None:
        rules = backing.rules
        if rules.tokens is not None:
            keys = TokenKeys(rules.tokens, time.time)
            keys.write()
            backing = msgspec.structs.replace(backing, keys=keys)
        self._backing = backing
        self.methods = TorchServeMethods(self._backing, control, messages)

    def closed(self, kind: Kind) -> frozenset[str]:
        """Return the paths of gRPC methods that change models and are disabled at a port.

        They are enabled where management was asked for: at TorchServe's management ports, and at the port for
        everything if requests may change models.
        """
        is_open = kind == "torchserve-all" or "management" in kind
        if is_open or (kind == _EVERYTHING and self._backing.rules.may_change):
            return frozenset()
        return CHANGING

    def shown(self, app: App, kind: Kind, access: Access) -> App:
        """Return the application with TorchServe's routes, if the port has any."""
        surfaces = SURFACES.get(kind)
        if surfaces is None and kind != _EVERYTHING:
            return app
        return TorchServe(app, self._backing, surfaces, access)


def exact_ports(most_body: int, budget: Budget | None = None) -> ExactPorts:
    """Return the ports of the REST interface, which use a server of their own.

    Args:
        most_body: Maximum bytes of a body.
        budget: Memory for all bodies; None = the default.
    """
    kinds = {kind: "inference" in surfaces for kind, surfaces in SURFACES.items()}
    return ExactPorts(kinds, NO_MESSAGE, most_body, budget)
