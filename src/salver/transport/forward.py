"""Headers of a call that become parameters of its request.

Triton's header forwarding (TR-R32, TR-G16): a pattern of the operator selects headers by name. A server
without a pattern has no :class:`Forwarding`.
"""

import re
from collections.abc import Mapping
from typing import Final

from salver.lazy import lazy_imports
from salver.words.messages import Parameter

with lazy_imports():
    from salver.transport.re2 import compiled


#: gRPC's own metadata, which its libraries hide as well.
_GRPC_OWN: Final = re.compile(rb"grpc-.*|content-type|te|.*-bin", re.DOTALL)


class Forwarding:
    """Selects headers by name.

    Names are in lower case, as in HTTP/2, and the pattern ignores case. It may match anywhere in the name
    unless ``^`` and ``$`` anchor it.

    Args:
        pattern: Regular expression in the part of RE2's syntax that Python can express. With ``(?-i)`` it is
            compared with the name in lower case.
        is_grpc: Leave out the metadata that gRPC itself uses.

    Raises:
        InvalidInput: the pattern is not a valid regular expression.

    >>> Forwarding("^x-fwd-").parameters({b"host": b"a", b"x-fwd-two": b"1,2"})
    {'x-fwd-two': '1,2'}
    """

    def __init__(self, pattern: str, *, is_grpc: bool = False) -> None:
        self._pattern = compiled(pattern)
        self._is_grpc = is_grpc

    def __repr__(self) -> str:
        return f"<Forwarding of {self._pattern.pattern.decode()}>"

    def parameters(self, headers: Mapping[bytes, bytes]) -> dict[str, Parameter]:
        """Return the forwarded headers as text."""
        return {
            name.decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in headers.items()
            # Names with a colon are the server's own, about the connection.
            if self._pattern.search(name)
            and not (name.startswith(b":") or (self._is_grpc and _GRPC_OWN.fullmatch(name)))
        }
