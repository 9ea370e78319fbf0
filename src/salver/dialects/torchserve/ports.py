"""The parts of TorchServe's interfaces, and what each port shows of them.

REST and gRPC share one set of keys and one set of rules.
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
    """The interfaces of one server.

    Args:
        backing: What answers, but for the keys.
        control: Knows which models there are.
        messages: Those of its Open Inference service.

    Raises:
        InvalidInput: the file of the keys cannot be written.
    """

    def __init__(self, backing: Backing, control: Looking, messages: TensorMessages | None) -> None:
        rules = backing.rules
        keys = None
        if rules.tokens is not None:
            keys = TokenKeys(rules.tokens, time.time)
            keys.write()
        self._backing = msgspec.structs.replace(backing, keys=keys)
        self.methods = TorchServeMethods(self._backing, control, messages)

    def closed(self, kind: Kind) -> frozenset[str]:
        """Paths of its gRPC methods that change models and that such a port does not have.

        They are where management was asked for: at its own ports, and at the one for everything if requests
        may change models at all.
        """
        is_asked = self._backing.rules.may_change if kind == _EVERYTHING else "management" in kind
        return frozenset() if is_asked or kind == "torchserve-all" else CHANGING

    def shown(self, app: App, kind: Kind, access: Access) -> App:
        """The application with TorchServe's routes, where that port has any."""
        surfaces = SURFACES.get(kind)
        if surfaces is None and kind != _EVERYTHING:
            return app
        return TorchServe(app, self._backing, surfaces, access)


def exact_ports(most_body: int, budget: Budget | None = None) -> ExactPorts:
    """Return the ports for TorchServe's REST interface, which have a server of their own.

    Args:
        most_body: Bytes of a body.
        budget: Memory for all bodies; None = as much as is usual.
    """
    kinds = {kind: "inference" in surfaces for kind, surfaces in SURFACES.items()}
    return ExactPorts(kinds, NO_MESSAGE, most_body, budget)
