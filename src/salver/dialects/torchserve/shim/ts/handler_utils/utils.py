"""Sending of pieces, and import of classes by name."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from ts.context import Context
from ts.protocol.otf_message_handler import create_predict_response


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """Return the class of a dotted name, below ``module_prefix`` if given.

    Raises:
        ImportError: there is no such class.
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
    """Send a piece to each request of the batch, before further ones and the answer.

    In a group of processes only the first one sends.
    """
    if os.getenv("LOCAL_RANK", "0") == "0":
        piece = create_predict_response(ret, req_id_map, message, code, context, True)
        context.cl_socket.sendall(piece)
