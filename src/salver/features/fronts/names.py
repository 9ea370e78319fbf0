"""Names of models in requests for inference, so that a front knows whether it has a copy. Pure."""

import re
from typing import Final

from salver.transport.exchange import Exchange
from salver.transport.routes import unquoted
from salver.words.errors import InvalidInput

#: Method that runs a model by gRPC; the first field of its message is the model's name.
GRPC_INFER: Final = b"/inference.GRPCInferenceService/ModelInfer"
_PATH: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")
#: First field of a message: a name of at most 127 bytes, behind the five bytes of gRPC's prefix.
_TAG: Final = 0x0A


def path_name(path: bytes) -> str | None:
    """Return the model that a path runs; None = it runs none.

    >>> path_name(b"/v2/models/a%20b/versions/3/infer"), path_name(b"/v2/models/a/ready")
    ('a b', None)
    """
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    try:
        return unquoted(found[1].decode("latin-1"))
    except InvalidInput:
        return None


def called(exchange: Exchange) -> str:
    """Return the model that a gRPC call names first; empty = unknown."""
    if exchange.large is not None and exchange.large.is_whole:
        return first_text(bytes(exchange.large.view[5:140]))
    return first_text((exchange.begun if exchange.body is None else exchange.body)[5:140])


def first_text(message: bytes) -> str:
    r"""Return the first field of a message if it is a short text in field 1; else empty.

    >>> first_text(b"\x0a\x03abc\x12\x011"), first_text(b"\x12\x011")
    ('abc', '')
    """
    if len(message) < 2 or message[0] != _TAG or message[1] > 0x7F:
        return ""
    return message[2 : 2 + message[1]].decode("utf-8", "replace")
