"""Base class of handlers whose model PiPPy splits into stages."""

import os
from abc import ABC
from typing import Any

import torch

from salver.words.errors import LoadFailed
from ts.handler_utils.distributed.pt_pippy import initialize_rpc_workers
from ts.handler_utils.libraries import needed
from ts.torch_handler.base_handler import BaseHandler


class BasePippyHandler(BaseHandler, ABC):
    """Handler in a group of processes, which connect before the subclass loads its model."""

    def initialize(self, ctx: Any) -> None:
        """Select the device, and join the group.

        Raises:
            LoadFailed: PiPPy, a GPU or the group is missing.
        """
        needed("the PiPPy handler", "pippy", "torchpippy")
        devices = torch.cuda.device_count()
        if not devices or "LOCAL_RANK" not in os.environ:
            raise LoadFailed("the PiPPy handler needs GPUs and a process for each, started by torchrun")
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.device = self.local_rank % devices
        initialize_rpc_workers(self.local_rank, self.world_size, ctx)
