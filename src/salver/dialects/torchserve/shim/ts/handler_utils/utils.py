"""How does a handler send a piece of its answer before the whole, and find a class by its name?"""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from ts.context import Context
from ts.protocol.otf_message_handler import create_predict_response


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class of a dotted name, below ``module_prefix`` if there is one.

    Raises:
        ImportError: the name names no class.
    """
    if not class_name:
        raise ImportError("class name is not defined")
    below, _, name = class_name.rpartition(".")
    module = ".".join([part for part in (module_prefix, below) if part])
    if not module:
        raise ImportError("module name is not defined.")
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ImportError(f"class:{name} not found in module:{below}.")
    return found


def send_intermediate_predict_response(
    ret: list[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Context
) -> None:
    """Send a piece to each request of the batch; further ones and the answer follow.

    Of a group of processes only the first one speaks.
    """
    if os.getenv("LOCAL_RANK", "0") == "0":
        piece = create_predict_response(ret, req_id_map, message, code, context, True)
        context.cl_socket.sendall(piece)
