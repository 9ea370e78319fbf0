"""Protobuf messages of TorchServe's services, and those of ``google.rpc`` in them.

Its Open Inference service has the messages of the Open Inference Protocol. A test compares ``protos/`` with
TorchServe's files.
"""

from typing import Any

from salver.encoding import protobuf


def build() -> dict[str, Any]:
    """Return message classes by name."""
    return protobuf.build(__package__)
