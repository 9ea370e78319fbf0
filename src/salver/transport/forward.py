"""Headers of a call that become parameters of its request.

Triton's header forwarding (TR-R32, TR-G16): those whose name a pattern of the owner's finds. A server
without a pattern has no :class:`Forwarding`, and looks at no header.
"""

import re
from collections.abc import Mapping
from typing import Final

from salver.lazy import lazy_imports
from salver.words.messages import Parameter

with lazy_imports():
    from salver.transport.re2 import compiled


#: gRPC's own metadata, which its libraries do not show either.
_GRPC_OWN: Final = re.compile(rb"grpc-.*|content-type|te|.*-bin", re.DOTALL)


class Forwarding:
    """Picks headers by name.

    Names come in lower case, whatever the caller wrote (as HTTP/2 has them), so the pattern matches
    letters of either case. It may be found anywhere in the name: ``^`` and ``$`` bind it.

    Args:
        pattern: A regular expression in RE2's syntax, as far as Python's has its like. ``(?-i)`` compares
            letters with those of the name in lower case.
        is_grpc: Leave out the metadata that gRPC itself uses.

    Raises:
        InvalidInput: it is no regular expression.

    >>> Forwarding("^x-fwd-").parameters({b"host": b"a", b"x-fwd-two": b"1,2"})
    {'x-fwd-two': '1,2'}
    """

    def __init__(self, pattern: str, *, is_grpc: bool = False) -> None:
        self._pattern = compiled(pattern)
        self._is_grpc = is_grpc

    def __repr__(self) -> str:
        return f"<Forwarding of {self._pattern.pattern.decode()}>"

    def parameters(self, headers: Mapping[bytes, bytes]) -> dict[str, Parameter]:
        """The headers that are forwarded, as text."""
        return {
            name.decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in headers.items()
            if self._pattern.search(name) and not (self._is_grpc and _GRPC_OWN.fullmatch(name))
        }
