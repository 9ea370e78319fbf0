"""What do handlers build on whose model DeepSpeed spreads over devices?"""

import os
from abc import ABC
from typing import Any

from ts.handler_utils.libraries import needed
from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler, ABC):
    """Of a group of processes, each on the device of its rank."""

    def initialize(self, ctx: Any) -> None:
        """Choose the device; the model is the subclass's own to load.

        Raises:
            LoadFailed: DeepSpeed is not installed.
        """
        needed("the DeepSpeed handler", "deepspeed")
        self.device = int(os.getenv("LOCAL_RANK", "0"))
