"""Configuration of TorchServe's interfaces and handlers."""

import msgspec

from salver.configuration import ServeConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.rules import TorchServeRules
from salver.dialects.torchserve.snapshots import SnapshotConfig
from salver.dialects.torchserve.view import TorchServeViewConfig


class TorchServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of TorchServe's interfaces and handlers.

    Attributes:
        rules: How requests are answered.
        view: Metrics and logs under TorchServe's names; None = none.
        snapshots: Where snapshots of the served handlers are written; None = nowhere.
        handlers: Handlers that are loaded at the start, and what requests may register.
        hides: Regular expression of environment variables that are hidden from handlers; empty = none.
        first_worker: Number of the first worker of a handler.
        workflow_store: Folder of workflow archives; empty = that of handlers.
    """

    rules: TorchServeRules = TorchServeRules()
    view: TorchServeViewConfig | None = None
    snapshots: SnapshotConfig | None = None
    handlers: HandlerStoreConfig = HandlerStoreConfig()
    hides: str = ""
    first_worker: int = 9000
    workflow_store: str = ""


def torchserve_config(config: ServeConfig) -> TorchServeConfig:
    """Return the table of a server's configuration. Raises InvalidInput."""
    return config.table("torchserve", TorchServeConfig)
