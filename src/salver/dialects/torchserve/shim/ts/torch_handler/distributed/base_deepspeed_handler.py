"""Base class of handlers whose model DeepSpeed distributes."""

import os
from abc import ABC
from typing import Any

from ts.handler_utils.libraries import needed
from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler, ABC):
    """Handler in a group of processes, each on the device of its rank."""

    def initialize(self, ctx: Any) -> None:
        """Select the device; subclasses load the model.

        Raises:
            LoadFailed: DeepSpeed is not installed.
        """
        needed("the DeepSpeed handler", "deepspeed")
        self.device = int(os.getenv("LOCAL_RANK", "0"))
